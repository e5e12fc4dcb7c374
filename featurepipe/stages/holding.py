"""Where a probe's features are held: in memory, or where that is too small, in a scratch file next to the shards."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from featurepipe import matrices, probes
from featurepipe.errors import ProbeError, StoreError
from featurepipe.files import size_text
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.preparing import Parts, check_finite, cut
from featurepipe.stores import Entry

UNITS = "KMGT"
SCORES = 18  # float64 arrays (n, classes): of each candidate on selection data, and of the C path
LEAST = 4  # such arrays of the rows that are selected on, at the least, whatever the kind and wherever features lie
SMALL = 2**26  # bytes that can always be had
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


def hold(entry: Entry, samples: FeatureMatrix, kind: str, memory: int | None, *, whole: bool = False) -> Parts:
    """Read the embeddings of samples, and cut them into parts.

    Where the features and a working copy of them exceed the memory, they lie in a file instead: in the entry's folder,
    or in the system's folder for temporary files if that may not be written. It has no name, so that nothing is left of
    it when its last array is gone, however this process ends.

    Parameters
    ----------
    entry : Entry
    samples : FeatureMatrix
        Samples of `featurepipe.matrices.outline`, in the order of `featurepipe.stages.preparing.arrange`.
    kind : str
        Kind of the probe.
    memory : int or None
        Bytes; by default what is available.
    whole : bool
        Whether something else than the probe needs all features in memory (semi-supervised lines).

    Raises
    ------
    ProbeError
        The features do not fit, and the kind has to hold them; or not even the scores of the classes do.
    StoreError
        They fit on the disk neither.
    ShardCorrupt
        A row fails its checksum.
    """
    shape = len(samples), entry.indexes[0].width
    size = 4 * shape[0] * shape[1]
    copies = 4 if kind == probes.MULTI_LABEL else 2
    scores = 8 * len(samples) * len(set(samples.y)) * SCORES
    limit = available() if memory is None else memory
    if kind != probes.MULTI_LABEL:
        check_scores(samples, limit, available())
    if limit is None or copies * size + scores <= limit:
        return cut(read(entry, samples))
    much = (
        f"the features and a working copy take {size_text(copies * size)}, class scores up to {size_text(scores)}; "
        f"that is more than the {size_text(limit)} of memory"
    )
    if whole:
        raise ProbeError(
            f"{much}, but semi-supervised probes need them in memory; leave out --semi, or give more --memory"
        )
    if kind == probes.MULTI_LABEL:
        raise ProbeError(f"{much}, but a multi-label probe needs both in memory; give more --memory")
    if probes.KINDS[kind].is_copied:
        others = ", ".join(probes.names("is_copied", without=True))
        raise ProbeError(f"{much}, but a {kind} probe needs both in memory; use {others}, or more --memory")
    folder = entry.folder if os.access(entry.folder, os.W_OK) else Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StoreError(
            f"{much}, and a scratch file of {size_text(size)} is more than the {size_text(free)} left in {folder}"
        )
    X = _scratch(folder, shape)
    return cut(read(entry, samples, X), f"out of core: {much}, so the features were read from disk")


def check_scores(samples: FeatureMatrix, *room: int | None) -> None:
    """Refuse classes whose scores alone do not fit, for which features on disk would be no help.

    Parameters
    ----------
    samples : FeatureMatrix
        With labels and splits.
    *room : int or None
        Bytes of memory; the largest counts, and None where it is not known.

    Raises
    ------
    ProbeError
        They do not fit.
    """
    classes, sizes = len(set(samples.y)), Counter(samples.split)
    rows = sizes["val"] or sizes["train"]  # without val, it is cross-validation that selects
    least = LEAST * 8 * rows * classes
    known = [one for one in room if one is not None]
    if len(known) == len(room) and least > max(*known, SMALL):
        raise ProbeError(
            f"scores of {rows} images for {classes} classes take {size_text(least)} or more, and the memory is "
            f"{size_text(max(known))}; probe fewer classes or fewer val images, or on a machine with more memory"
        )


def read(entry: Entry, samples: FeatureMatrix, X: np.ndarray | None = None) -> FeatureMatrix:
    """The embeddings of samples, as `featurepipe.matrices.fill` reads them; ProbeError where one is not finite."""
    matrix = matrices.fill(entry, samples, X)
    check_finite(matrix, entry)
    return matrix


def _scratch(folder: Path, shape: tuple[int, int]) -> np.memmap:
    """A float32 array in a file without a name; its space is free again when the array is."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # or a disk that another fills meanwhile kills this process
            try:
                os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
            except OSError as error:
                raise StoreError(f"no room for features in {folder}: {error.strerror or error}") from error
        return np.memmap(file, np.float32, "w+", shape=shape)
