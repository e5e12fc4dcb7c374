"""Sizes in bytes, and how much memory there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from featurepipe.errors import ProbeError

UNITS = "KMGT"


SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*(?:([{UNITS}])(i?))?B?", re.IGNORECASE)


def parse_size(size: int | str | None) -> int | None:
    """A number of bytes, as such or as ``8GB`` (10⁹), ``500MB`` or ``2.5GiB`` (2³⁰); None stays None.

    Raises
    ------
    ProbeError
        It is not a size above 0.

    Examples
    --------
    >>> parse_size("2.5MB"), parse_size("1 gib"), parse_size(7)
    (2500000, 1073741824, 7)
    """
    if size is None:
        return None
    found = SIZE.fullmatch(str(size).strip())
    if found is None:
        raise ProbeError(f"memory {size!r} is not a size; give bytes, or say 8GB, 500MB or 2.5GiB")
    number, unit, binary = found.groups()
    power = 0 if unit is None else 1 + UNITS.index(unit.upper())
    count = int(float(number) * (1024 if binary else 1000) ** power)
    if count < 1:
        raise ProbeError(f"memory must be above 0, not {size!r}; give bytes, or say 8GB, 500MB or 2.5GiB")
    return count


def available() -> int | None:
    """Bytes of memory that can be had now, as the kernel estimates; where it does not, all that there is, or None.

    A container's limit (cgroup v2) counts, less what its processes hold themselves.
    """
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except FileNotFoundError:  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["anon"]
    except OSError:  # the root group, or cgroup v1
        return free
    return free if limit == "max" else max(min(free, int(limit) - int(used)), 0)
