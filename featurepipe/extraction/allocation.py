"""How the C library hands out memory while a network runs on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's mallopt: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
KEPT = 2**31 - 1  # bytes at the top of the heap that are kept; an int is all that mallopt takes
LARGEST = 32 * 2**20  # bytes, the most that it takes for a threshold between heap and mapping
# Bytes. A thread's arena consists of heaps of 64 MB, and one that is free goes back whatever the threshold is, unless
# more than a whole heap is wanted to spare.
SPARE, USUAL_SPARE = 2**27, 2**17


@contextmanager
def reuse_memory() -> Iterator[None]:
    """Within, freed memory is kept for the next batch; on leaving, it is given back.

    glibc otherwise returns every large tensor to the system as soon as it is freed, which then has to clear the pages
    of the next one: a fifth of MobileNetV2's time on two cores (benchmarks/README.md). No more arenas than there are,
    because one is enough for all. Where the C library is another one, nothing is done.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "malloc_trim"):
        yield
        return
    for parameter, value in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, KEPT), (TOP_PAD, SPARE), (ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)  # what glibc itself works up to
        libc.mallopt(TOP_PAD, USUAL_SPARE)
        libc.mallopt(ARENA_MAX, 0)  # as many as it likes
        libc.malloc_trim(0)
