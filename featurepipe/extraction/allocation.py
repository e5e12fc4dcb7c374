"""How the C library hands out memory while a network runs on the CPU."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of glibc's mallopt: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT = 2**31 - 1  # bytes at the top of the heap that are kept; an int is all that mallopt takes
LARGEST = 32 * 2**20  # bytes, the most that it takes for a threshold between heap and mapping
# Bytes. A thread's arena consists of heaps of 64 MB, and one that is free goes back whatever the threshold is, unless
# more than a whole heap is wanted to spare.
SPARE, USUAL_SPARE = 2**27, 2**17
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

_USERS = [0]  # extractions that run in this process
_CHANGING = threading.Lock()


@contextmanager
def reuse_memory(libc: Any = LIBC) -> Iterator[None]:
    """Within, freed memory is kept for the next batch; when the last of those inside leaves, it is given back.

    glibc otherwise returns every large tensor to the system as soon as it is freed, which then has to clear the pages
    of the next one: a fifth of MobileNetV2's time on two cores (benchmarks/README.md). Afterwards glibc's settings are
    what it comes to by itself once large blocks have been freed. Where the C library is another one, nothing is done.
    """
    if not hasattr(libc, "malloc_trim"):
        yield
        return
    with _CHANGING:
        _USERS[0] += 1
        for parameter, value in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, KEPT), (TOP_PAD, SPARE)):
            libc.mallopt(parameter, value)
    try:
        yield
    finally:
        with _CHANGING:
            _USERS[0] -= 1
            if not _USERS[0]:
                libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
                libc.mallopt(TOP_PAD, USUAL_SPARE)
                libc.malloc_trim(0)
