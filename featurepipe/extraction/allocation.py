"""How the C library hands out memory while a network runs on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's mallopt: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
KEPT = 2**31 - 1  # bytes at the top of the heap that are kept; an int is all that mallopt takes
LARGEST = 32 * 2**20  # bytes, the most that it takes for a threshold between heap and mapping


@contextmanager
def reuse_memory() -> Iterator[None]:
    """Within, freed memory is kept for the next batch; on leaving, it is given back.

    glibc otherwise returns every large tensor to the system as soon as it is freed, which then has to clear the pages
    of the next one: a fifth of MobileNetV2's time on two cores (benchmarks/README.md). One arena, because the others
    cannot grow as far. Where the C library is another one, nothing is done.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "malloc_trim"):
        yield
        return
    for parameter, value in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, KEPT), (ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)  # what glibc itself works up to
        libc.mallopt(ARENA_MAX, 0)  # as many as it likes
        libc.malloc_trim(0)
