"""Groups: samples that are alike, such as all images of a patient, and stay on one side of every split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from featurepipe.errors import ManifestError
from featurepipe.manifests.samples import Sample, Samples


def check_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression that names groups.

    Raises
    ------
    ManifestError
        It is not one.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"{pattern!r} is not a regular expression ({error}); correct --group-from") from error


def group_of(path: str, pattern: re.Pattern[str]) -> str:
    r"""The group that a path names: what the first parentheses of the pattern match, or all that it matches.

    Raises
    ------
    ManifestError
        It matches nothing there, so that the sample would be in no group.

    Examples
    --------
    >>> group_of("scans/patient7/left.png", re.compile(r"patient\d+"))
    'patient7'
    """
    found = pattern.search(path)
    name = found and (found[1] if pattern.groups else found[0])
    if not name:
        raise ManifestError(f"--group-from {pattern.pattern!r} finds no group in {path!r}; make it match every path")
    return name


def units(digests: Sequence[str] | np.ndarray, groups: Sequence[str | None] | np.ndarray) -> np.ndarray:
    """What must stay together: samples of one group, exact copies, and whatever these link.

    Parameters
    ----------
    digests : sequence of str, shape (n,)
        Digests of the samples' contents; of parts, that of the whole file.
    groups : sequence of str or None, shape (n,)

    Returns
    -------
    ndarray of object (str), shape (n,)
        For each sample the smallest digest of its unit; of a sample without group its own.

    Examples
    --------
    >>> units(["a", "b", "b", "c", "d"], ["x", "x", "y", "y", None]).tolist()
    ['a', 'a', 'a', 'a', 'd']
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, contents = np.unique(np.asarray(digests, object).astype(str), return_inverse=True)
    rows = np.array([group is not None for group in groups], bool)
    _, own = np.unique(np.array([group for group in groups if group is not None], str), return_inverse=True)
    size = len(names) + (int(own.max()) + 1 if len(own) else 0)
    links = coo_array((np.ones(len(own), bool), (contents[rows], len(names) + own)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    smallest = np.full(size, len(names))
    np.minimum.at(smallest, component[: len(names)], np.arange(len(names)))  # names are sorted
    return names[smallest[component[contents]]].astype(object)


def check_groups(samples: Sequence[Sample]) -> None:
    """Check that no group, and no file of which there are parts, is divided by the splits that samples have.

    Raises
    ------
    ManifestError
        One is; the message names it and a sample on each side.
    """
    _check_undivided("group", ((sample.group, sample) for sample in samples))
    if Samples.of(samples).parts.any:
        parted = {sample.place for sample in samples if sample.part is not None}
        _check_undivided("file", ((sample.place, sample) for sample in samples if sample.place in parted))


def _check_undivided(what: str, named: Iterable[tuple[str | None, Sample]]) -> None:
    first: dict[str, Sample] = {}
    for name, sample in named:
        if name is None or sample.split is None:
            continue
        other = first.setdefault(name, sample)
        if other.split != sample.split:
            raise ManifestError(
                f"{what} {name!r} is in {other.split} ({other.id}) and in {sample.split} ({sample.id}); give "
                "its samples one split, or leave out the splits to have them made here"
            )


def count_groups(samples: Iterable[Sample]) -> int:
    """How many different groups there are."""
    return len({sample.group for sample in samples} - {None})
