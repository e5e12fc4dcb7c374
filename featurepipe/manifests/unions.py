"""A manifest of whatever is named: images, folders and tables, one or several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.manifests.folders import medium_of
from featurepipe.manifests.leftovers import LeftOut
from featurepipe.manifests.manifest import Manifest, read
from featurepipe.manifests.samples import Sample, Samples
from featurepipe.sources import Files, Remotes, Source, Tables, is_url, open_container
from featurepipe.tables import TABLE_SUFFIXES


def gather(
    places: Sequence[str | os.PathLike[str]],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    medium: str | None = None,
) -> Manifest:
    """One manifest of images, folders and tables, or of one container.

    A single folder, table or container is read as `read` does. Of everything else the ids and paths are as they were
    given, so that they can be opened from here; what is named twice is there once.

    Parameters
    ----------
    places : sequence of path
        A file without a table's suffix is an image, whatever its suffix: whether it can be read shows later.
    path_column, label_column, text_column : str, optional
        As for `read`, of the tables among them.
    medium : str, optional
        As for `read`.

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
    columns = {"path_column": path_column, "label_column": label_column, "text_column": text_column}
    for place in places:
        if open_container(place) is None and not is_url(str(place)) and not Path(place).exists():
            raise ManifestError(
                f"{place} does not exist; give images, folders of images, archives, or tables with a 'path' column"
            )
    if len(places) == 1 and not _is_image(places[0]):
        return read(places[0], medium=medium, **_of(places[0], columns))
    found, left_out = dict[str, Sample](), LeftOut()
    for place in places:
        if _is_image(place):
            found[str(place)] = Sample(str(place), str(place), None, None)
            continue
        manifest = read(place, medium=medium, **_of(place, columns))
        if not isinstance(manifest.source, Files) and not _is_table_of_urls(manifest.source):
            kind = "table of texts" if isinstance(manifest.source, Tables) else "container of its own files"
            raise ManifestError(f"{place} is a {kind}; give it alone, without other places")
        left_out.add(manifest.left_out)
        for sample in manifest.samples:
            path = manifest.name(sample)
            id_ = path if sample.part is None else f"{path}#{sample.part}"
            found[id_] = sample._replace(id=id_, place=path)
    medium = medium or medium_of((sample.place for sample in found.values()), "what is given")
    source = Remotes() if any(is_url(sample.place) for sample in found.values()) else Files()
    return Manifest(source, Samples(found[id_] for id_ in sorted(found)), left_out, medium)


def _is_table_of_urls(source: Source) -> bool:
    return isinstance(source, Remotes) and not is_url(source.root)


def _is_image(place: str | os.PathLike[str]) -> bool:
    if is_url(str(place)):
        return open_container(place) is None
    path = Path(place)
    return path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES and open_container(place) is None


def _of(place: str | os.PathLike[str], columns: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Columns of a table; a folder has none."""
    return {} if Path(place).is_dir() else columns
