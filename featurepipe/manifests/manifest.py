"""Reading a manifest from a folder or a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.manifests.containers import read_container
from featurepipe.manifests.folders import medium_of, read_folder
from featurepipe.manifests.groups import check_groups, check_pattern, group_of
from featurepipe.manifests.leftovers import LeftOut
from featurepipe.manifests.samples import Sample, Samples
from featurepipe.manifests.splits import split_named
from featurepipe.media import MEDIA
from featurepipe.sources import Columns, Files, Remotes, Source, Tables, cell, is_url, open_container
from featurepipe.tables import TABLE_SUFFIXES, Table, check_columns, remarks

PART = re.compile(r"[\d.,\s-]+")  # numbers, however a medium writes its parts
ROLES = ("id", "path", "label", "split", "group", "part")  # of a table's columns, in the order of a sample's fields
CORNERS = ("x0", "y0", "x1", "y1")  # columns of a box, where there is no column ``part``
TEXT = "text"  # the medium, and the column of texts
DIGITS = 7  # of the number of a row that has no other id, so that rows keep their order


@dataclass(frozen=True)
class Manifest:
    """Samples in a stable order, all of one source.

    Attributes
    ----------
    source : Source
        Where their places are.
    samples : sequence of Sample
        Sorted by id; ids are unique.
    left_out : LeftOut
        What else there was.
    medium : str or None
        What the samples are; None where nobody has said it.
    """

    source: Source
    samples: Sequence[Sample]
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)
    medium: str | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def root(self) -> Path:
        """The source's root: where it has files, the folder that relative paths start from."""
        return Path(self.source.root)

    def name(self, sample: Sample) -> str:
        """What leads to the sample from here: a path or a URL."""
        if is_url(sample.place):
            return sample.place
        if is_url(self.source.root):
            return f"{self.source.root.rstrip('/')}/{sample.place}"
        return str(self.file(sample))

    def file(self, sample: Sample) -> Path:
        """The sample's file."""
        return self.root / sample.place


def read(
    source: str | os.PathLike[str],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    group_column: str | None = None,
    group_from: str | None = None,
    medium: str | None = None,
) -> Manifest:
    """Read the manifest of a folder, a table or a container.

    Parameters
    ----------
    source : path
        Folder of images or sounds, a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or what
        `featurepipe.sources.open_container` knows, such as a ``.zip`` or ``.tar`` file.
    path_column, label_column : str, optional
        The table's columns of files and of labels, if they are not called ``path`` and ``label``.
    text_column : str, optional
        The table's column of texts, which are then the samples; by default ``text``, in a table without files, or
        where `medium` is ``text`` and the files are not.
    group_column : str, optional
        The table's column of groups, if it is not called ``group``.
    group_from : str, optional
        A regular expression that finds each sample's group in its path; see `featurepipe.manifests.groups.group_of`.
    medium : str, optional
        What the samples are, one of `featurepipe.media.MEDIA`; by default by the suffixes of their files.

    Raises
    ------
    ManifestError
        Nothing there, no samples, several media, a layout that mixes two kinds, rows that contradict each other,
        missing files, unknown splits, a group on two sides of a split, or a table that cannot be read for certain.
    DependencyMissing
        A Parquet table without pyarrow installed.

    Examples
    --------
    >>> manifest = read("data/digits")
    >>> len(manifest), manifest.samples[0].label, manifest.samples[0].split
    (1797, '0', 'test')
    """
    if group_column is not None and group_from is not None:
        raise ManifestError("groups are in a column or in the paths; leave out --group or --group-from")
    if medium not in (None, *MEDIA):
        raise ManifestError(f"medium {medium!r} is unknown; use {', '.join(MEDIA)}")
    if path_column is not None and text_column is not None:
        raise ManifestError("samples are files or texts of the table; leave out --path-column or --text-column")
    if medium not in (None, TEXT) and text_column is not None:
        raise ManifestError(f"a column of texts holds no {MEDIA[medium].plural}; leave out --text-column or --medium")
    container = open_container(source)
    if container is not None:
        if text_column is not None:
            raise ManifestError(f"{container.root} has no column of texts; leave out --text-column")
        columns = Columns(path_column, label_column, group_column)
        found = Manifest(container, *read_container(container, columns, medium))
    else:
        found = _read(Path(source), path_column, label_column, text_column, group_column, medium)
    if group_from is not None:
        pattern = check_pattern(group_from)
        grouped = Samples(one._replace(group=group_of(one.place, pattern)) for one in found.samples)
        found = replace(found, samples=grouped)
    check_groups(found.samples)
    return found


def _read(
    path: Path,
    path_column: str | None,
    label_column: str | None,
    text_column: str | None,
    group_column: str | None,
    medium: str | None,
) -> Manifest:
    if path.is_dir():
        if any(name is not None for name in (path_column, label_column, text_column, group_column)):
            raise ManifestError(
                f"{path} is a folder, which has no columns; leave out --path-column, --label-column, --text-column and "
                "--group"
            )
        return Manifest(Files(str(path)), *read_folder(path, medium))
    if not path.exists():
        raise ManifestError(
            f"{path} does not exist; give a folder of images, an archive, or a table with a 'path' column"
        )
    if path.suffix.lower() not in TABLE_SUFFIXES:
        known = " ".join(sorted(TABLE_SUFFIXES))
        raise ManifestError(
            f"{path} is neither a folder nor an archive (.zip .tar .tar.gz) nor a table ({known}); give one of these"
        )
    if not path.is_file():
        raise ManifestError(f"{path} is a pipe or a device, which can be read once at most; write the table to a file")
    if text_column is not None or (
        path_column is None and medium in (None, TEXT) and _has_texts(path, is_asked=medium == TEXT)
    ):
        return _read_texts(path, text_column or TEXT, label_column, group_column)
    found = _read_table(path, path_column or "path", label_column, group_column)
    return replace(found, medium=medium or medium_of((one.place for one in found.samples), path))


def _has_texts(path: Path, *, is_asked: bool) -> bool:
    """Whether the samples of a table are texts in it: it has a column for them, and none for files.

    Where texts are asked for, the files may be there, too, if the first of them is no text.
    """
    table = Table(path, [], ["path", TEXT], prose=[TEXT])
    _, first = next(iter(table), (0, {}))
    file = Path((first.get("path") or "").strip())
    return table.used == [TEXT] or (is_asked and TEXT in table.used and file.suffix.lower() not in MEDIA[TEXT].suffixes)


def _read_texts(path: Path, text_column: str, label_column: str | None, group_column: str | None) -> Manifest:
    columns = ("id", text_column, label_column or "label", "split", group_column or "group")
    needed = [text_column, *(name for name in (label_column, group_column) if name is not None)]
    table = Table(path, needed, columns, keys=("id", "split"), prose=[text_column])
    samples = Samples()
    for number, cells in table:
        id_, _, label, split, group = (cells.get(name) for name in columns)
        place = cell(text_column, number)
        samples.append(Sample(id_ or f"{number:0{DIGITS}}", place, label, _split(path, number, split, ""), group))
    return replace(_manifest(Tables(str(path)), table, samples, columns), medium=TEXT)


def _read_table(path: Path, path_column: str, label_column: str | None, group_column: str | None) -> Manifest:
    columns = ("id", path_column, label_column or "label", "split", group_column or "group", "part")
    needed = [path_column, *(name for name in (label_column, group_column) if name is not None)]
    table = Table(path, needed, (*columns, *CORNERS), keys=("id", path_column, "split"))
    samples, missing = Samples(), []
    for number, cells in table:
        if path_column not in cells:  # JSONL
            check_columns(path, [*table.used, *table.unused], [path_column])
        cells["part"] = _part(path, number, cells)
        sample = _sample(path, number, [cells.get(name) for name in columns], path_column)
        if not is_url(sample.place) and not os.path.isfile(os.path.join(path.parent, sample.place)):
            missing.append(sample.place)
        samples.append(sample)
    if missing:
        raise ManifestError(
            f"{path}: {len(missing)} of its {len(samples)} files cannot be found, first {missing[0]!r}; correct the "
            f"paths (relative ones start at {path.parent})"
        )
    _check_parts(path, samples)
    _give_back_corners(table)
    is_remote = any(is_url(sample.place) for sample in samples)
    return _manifest((Remotes if is_remote else Files)(str(path.parent)), table, samples, columns)


def _part(path: Path, number: int, cells: Mapping[str, str | None]) -> str | None:
    """The part that a row names: in its own column, or by the corners of a box."""
    if "part" in cells or not cells.keys() >= set(CORNERS):
        return cells.get("part")
    corners = [cells[name] for name in CORNERS]
    if not any(corners):
        return None
    if not all(corners):
        empty = next(name for name, corner in zip(CORNERS, corners, strict=True) if not corner)
        raise ManifestError(f"{path}: row {number} has a box without {empty!r}; give all four corners, or none")
    return ",".join(re.sub(r"\.0+$", "", corner or "") for corner in corners)  # 10.0, as numbers with gaps are written


def _give_back_corners(table: Table) -> None:
    """Count columns of corners as not used, where they were not: next to a column ``part``, or without the others."""
    there = [name for name in CORNERS if name in table.used]
    if there and ("part" in table.used or len(there) < len(CORNERS)):
        table.used = [name for name in table.used if name not in there]
        table.unused += there


def _check_parts(path: Path, samples: Samples) -> None:
    """Refuse a column ``part`` that means something else, such as a part of the body."""
    parts = [sample.part for sample in samples if sample.part is not None]
    if parts and not any(map(PART.fullmatch, parts)):
        raise ManifestError(
            f"{path}: the column part holds {parts[0]!r}, which is neither a box (10,20,200,180) nor a span of seconds "
            "(12.0-16.0); rename the column if it means something else"
        )


def _manifest(source: Source, table: Table, samples: Samples, columns: Sequence[str]) -> Manifest:
    """What a table that has been read gives; its columns are in the order of `ROLES`."""
    if not samples:
        raise ManifestError(f"{table.path} has no rows")
    folded = _folded(_sorted(samples), table.path, columns)
    used = [role for role, name in zip(ROLES, columns, strict=False) if name in table.used]
    left_out = LeftOut(columns=table.unused, remarks=remarks(table.unused, used), doubles=len(samples) - len(folded))
    left_out.blank_rows, left_out.missing = table.blank_rows, table.missing
    return Manifest(source, folded, left_out)


def _sample(path: Path, number: int, cells: Sequence[str | None], path_column: str) -> Sample:
    """A row's sample; its cells are in the order of `ROLES`."""
    id_, file, label, split, group, part = cells
    if file is None or not file.strip():
        raise ManifestError(f"{path}: row {number} has no {path_column!r}")
    if file != file.strip() and not os.path.isfile(os.path.join(path.parent, file)):
        file = file.strip()  # as after ", "
    return Sample(id_ or _own_id(file, part), file, label, _split(path, number, split, f" ({file})"), group, part)


def _split(path: Path, number: int, split: str | None, where: str) -> str | None:
    """The split that a row's cell names."""
    named = (split or "").strip()
    known = split_named(named)
    if named and known is None:
        raise ManifestError(
            f"{path}: row {number}{where} has unknown split {named!r}; use train, val or test, or leave it empty"
        )
    return known


def _own_id(file: str, part: str | None) -> str:
    """The id of a row that has none."""
    id_ = file.replace(os.sep, "/")
    return id_ if part is None else f"{id_}#{part}"


def _sorted(samples: Samples) -> Samples:
    """The same by id; a table that is sorted already, as most are, needs no room for it."""
    if all(id_ <= following for id_, following in pairwise(samples.ids)):
        return samples
    order = sorted(range(len(samples)), key=samples.ids.__getitem__)
    return Samples(samples[i] for i in order)


def _folded(samples: Samples, path: Path, columns: Sequence[str]) -> Samples:
    """Sorted samples, each once; a ManifestError where two of one id differ."""
    if not any(id_ == following for id_, following in pairwise(samples.ids)):
        return samples
    for sample, following in pairwise(samples):
        if sample.id == following.id and sample != following:
            raise ManifestError(_contradiction(path, sample, following, columns))
    others = (following for sample, following in pairwise(samples) if sample != following)
    return Samples(chain(samples[:1], others))


def _contradiction(path: Path, one: Sample, other: Sample, columns: Sequence[str]) -> str:
    """Which rows of a table have the same id, and in what they differ."""
    id_column, path_column, label_column, *_ = columns
    table = Table(path, [path_column], (*columns, *CORNERS), keys=("id", path_column))
    rows = [
        str(number)
        for number, cells in table
        if one.id in (cells.get(id_column), _own_id((cells[path_column] or "").strip(), _part(path, number, cells)))
    ]
    differing = {name: (mine, its) for name, mine, its in zip(columns, one, other, strict=False) if mine != its}
    name, (mine, its) = next(iter(differing.items()))
    advice = "keep one of them"
    if name == path_column:
        advice = f"an id names one image: if {id_column!r} holds something else, such as patients, rename that column"
    elif name == label_column:
        advice += "; for several labels write 'a;b' in one row"
    return (
        f"{path}: id {one.id!r} is in rows {' and '.join(rows[:5])}, with different cells in {name!r} "
        f"({mine!r}, {its!r}); {advice}"
    )
