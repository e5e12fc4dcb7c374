"""A manifest of whatever is named: images, folders and tables, one or several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.manifests.reading import Manifest, read
from featurepipe.manifests.samples import Sample, Samples
from featurepipe.manifests.tables import TABLE_SUFFIXES


def gather(places: Sequence[str | os.PathLike[str]]) -> Manifest:
    """One manifest of images, folders and tables.

    A single folder or table is read as `read` does. Of everything else the ids and paths are as they were given, so
    that they can be opened from here; what is named twice is there once.

    Parameters
    ----------
    places : sequence of path
        A file whose suffix is no table's is an image, whatever its suffix: whether it can be read shows later.

    Raises
    ------
    ManifestError
        Nothing there, and as for `read`.

    Examples
    --------
    >>> manifest = gather(["data/digits/test/3"])
    >>> len(manifest), gather([manifest.file(manifest.samples[0])]).samples[0].label
    (62, None)
    """
    for place in places:
        if not Path(place).exists():
            raise ManifestError(
                f"{place} does not exist; give images, folders of images, or tables with a 'path' column"
            )
    if len(places) == 1 and not _is_image(places[0]):
        return read(places[0])
    found = {sample.id: sample for place in places for sample in _samples(place)}
    return Manifest(Path(), Samples(found[id_] for id_ in sorted(found)))


def _is_image(place: str | os.PathLike[str]) -> bool:
    path = Path(place)
    return path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES


def _samples(place: str | os.PathLike[str]) -> Iterator[Sample]:
    """The samples of one place, with paths from here."""
    if _is_image(place):
        yield Sample(str(place), str(place), None, None)
        return
    manifest = read(place)
    for sample in manifest.samples:
        path = str(manifest.file(sample))
        yield sample._replace(id=path, path=path)
