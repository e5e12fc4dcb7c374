"""Manifests: which samples there are, with their labels and splits.

A manifest is read from one of

- a folder of class folders (``cats/1.jpg``),
- a folder with ``train/ val/ test/`` above class folders (``train/cats/1.jpg``),
- a flat folder of images (no labels),
- a CSV, TSV, JSONL or Parquet table with the column ``path`` and optionally ``id``, ``label`` and ``split``;
  relative paths start at the table's own folder.

Samples are sorted by id, which is the relative POSIX path unless the table has a column ``id``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, overload

from featurepipe.errors import DependencyMissing, ManifestError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pbm jp2 avif tga ico".split()  # noqa: SIM905
)
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
VAL_SHARE = TEST_SHARE = 0.2


class Sample(NamedTuple):
    """One image: its key, its file, and what is known about it.

    `path` is relative to the manifest's root, or absolute.
    """

    id: str
    path: str
    label: str | None
    split: str | None


class Samples(Sequence[Sample]):
    """Samples in some fifty bytes each, made when they are asked for: a million of them are no burden.

    Parameters
    ----------
    samples : iterable of Sample
        In their order.

    Examples
    --------
    >>> samples = Samples([Sample("cats/1.jpg", "cats/1.jpg", "cats", None)])
    >>> samples[0].label, len(samples)
    ('cats', 1)
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._ids, self._paths = _Texts(), _Texts()
        self._labels, self._splits = _Repeated(), _Repeated()
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Add one at the end."""
        id_, path, label, split = sample
        self._ids.append(id_)
        self._paths.append("" if path == id_ else path)  # as nearly everywhere; a path is never empty
        self._labels.append(label)
        self._splits.append(split)

    @property
    def ids(self) -> Sequence[str]:
        """Their ids alone."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        id_ = self._ids[index]
        return Sample(id_, self._paths[index] or id_, self._labels[index], self._splits[index])

    def __iter__(self) -> Iterator[Sample]:  # thrice as fast as one by one
        for id_, path, label, split in zip(self._ids, self._paths, self._labels, self._splits, strict=True):
            yield Sample(id_, path or id_, label, split)


class _Texts(Sequence[str]):
    """Texts end to end in one buffer."""

    def __init__(self) -> None:
        self._buffer, self._bounds = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._buffer += text.encode("utf-8", "surrogatepass")  # file names may be any bytes
        self._bounds.append(len(self._buffer))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> str:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._buffer[self._bounds[index] : self._bounds[index + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in islice(self._bounds, 1, None):
            yield self._buffer[start:end].decode("utf-8", "surrogatepass")
            start = end


class _Repeated(Sequence[str | None]):
    """Texts of which there are few different ones."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {}
        self._values: list[str | None] = []
        self._rows = array("i")

    def append(self, value: str | None) -> None:
        code = self._codes.setdefault(value, len(self._values))
        if code == len(self._values):
            self._values.append(value)
        self._rows.append(code)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str | None:
        return self._values[self._rows[index]]

    def __iter__(self) -> Iterator[str | None]:
        return map(self._values.__getitem__, self._rows)


@dataclass(frozen=True)
class Manifest:
    """Samples in a stable order, below one root folder.

    Attributes
    ----------
    root : Path
        Folder that relative sample paths start from.
    samples : sequence of Sample
        Sorted by id; ids are unique.
    """

    root: Path
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def file(self, sample: Sample) -> Path:
        """The sample's file."""
        return self.root / sample.path


def read(source: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a folder or a table.

    Parameters
    ----------
    source : path
        Folder of images, or a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file.

    Raises
    ------
    ManifestError
        Nothing there, no images, a layout that mixes two kinds, duplicate ids, missing files or unknown splits.
    DependencyMissing
        A Parquet table without pyarrow installed.

    Examples
    --------
    >>> manifest = read("data/digits")
    >>> len(manifest), manifest.samples[0].label, manifest.samples[0].split
    (1797, '0', 'test')
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise ManifestError(f"{path} does not exist; give a folder of images or a table with a 'path' column")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        known = " ".join(sorted(TABLE_SUFFIXES))
        raise ManifestError(f"{path} is neither a folder nor a table ({known}); give a folder or such a table")
    return _read_table(path)


def _read_folder(root: Path) -> Manifest:
    ids = _Texts()
    for id_ in _find_images(root):
        ids.append(id_)
    if not ids:
        raise ManifestError(f"no images under {root} (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
    folders: dict[str, str] = {}  # top folder -> its first image
    loose = None
    for id_ in ids:
        top, slash, _ = id_.partition("/")
        if slash:
            folders.setdefault(top, id_)
        elif loose is None:
            loose = id_
    splits = [name for name in folders if name.lower() in SPLIT_NAMES]
    if folders and loose is not None:
        raise ManifestError(
            f"{root} mixes images ({loose}) with folders of images ({next(iter(folders))}/); "
            "move the loose images away, or list the samples in a table"
        )
    if splits and len(splits) < len(folders):
        other = next(name for name in folders if name not in splits)
        raise ManifestError(
            f"{root} mixes split folders ({splits[0]}/) with others ({other}/); "
            "keep only train/ val/ test/, or list the samples in a table"
        )
    if len({SPLIT_NAMES[name.lower()] for name in splits}) < len(splits):
        raise ManifestError(f"{root} has two folders for one split: {', '.join(splits)}; keep one of them")
    depth = 1 if splits else 0  # where the class folder stands in an id
    samples = Samples()
    for id_ in ids:
        parts = id_.split("/", depth + 1)
        split = SPLIT_NAMES[parts[0].lower()] if splits else None
        label = parts[depth] if len(parts) > depth + 1 else None
        samples.append(Sample(id_, id_, label, split))
    _check_mixed_labels(root, samples)
    return Manifest(root, samples)


def _find_images(folder: str | Path, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Relative POSIX paths of image files below `folder`, sorted; hidden names are skipped, links are followed.

    No more than one folder's names are held at a time. With a slash at the end of what is a folder, sorting folder
    by folder gives the same order as sorting whole paths.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up
        return
    names = []
    try:
        for entry in os.scandir(folder):
            name = entry.name
            if name.startswith("."):
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                names.append(name + "/")
            elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and _is_file(entry):
                names.append(name)
    except OSError as error:
        raise ManifestError(
            f"folder {folder} cannot be read ({error.strerror}); change its rights or move it"
        ) from error
    names.sort()
    for name in names:
        if name.endswith("/"):
            yield from _find_images(os.path.join(folder, name[:-1]), prefix + name, above | {real})
        else:
            yield prefix + name


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to nothing, which is rejected by name later; not a pipe, which would be read for ever."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _check_mixed_labels(root: Path, samples: Sequence[Sample]) -> None:
    """Refuse a split folder that holds both loose images and class folders."""
    first: dict[tuple[str | None, bool], str] = {}
    for sample in samples:
        first.setdefault((sample.split, sample.label is None), sample.id)
    for split in SPLITS:
        if (split, True) in first and (split, False) in first:
            raise ManifestError(
                f"{root} mixes loose images ({first[split, True]}) with class folders ({first[split, False]}); "
                "move the loose images into class folders"
            )


def _read_table(path: Path) -> Manifest:
    samples = Samples()
    for number, row in enumerate(_table_rows(path), start=1):
        file = _text(row.get("path"))
        if None in row:
            raise ManifestError(
                f"{path}: row {number} ({file}) has more cells than the header; quote cells with commas"
            )
        if file is None:
            columns = ", ".join(map(str, row)) or "none"
            raise ManifestError(f"{path}: row {number} has no 'path' (its columns: {columns})")
        split = _text(row.get("split"))
        if split is not None and split.lower() not in SPLIT_NAMES:
            raise ManifestError(f"{path}: row {number} ({file}) has unknown split {split!r}; use train, val or test")
        samples.append(
            Sample(
                _text(row.get("id")) or file.replace(os.sep, "/"),
                file,
                _text(row.get("label")),
                SPLIT_NAMES[split.lower()] if split else None,
            )
        )
    if not samples:
        raise ManifestError(f"{path} has no rows")
    samples = _sorted(samples)
    if any(id_ == following for id_, following in pairwise(samples.ids)):
        id_, count = Counter(samples.ids).most_common(1)[0]
        raise ManifestError(f"{path}: id {id_!r} stands in {count} rows; ids must be unique")
    missing = [sample.path for sample in samples if not os.path.isfile(os.path.join(path.parent, sample.path))]
    if missing:
        raise ManifestError(
            f"{path}: {len(missing)} of {len(samples)} files are missing, first {missing[0]!r} "
            f"(relative paths start at {path.parent})"
        )
    return Manifest(path.parent, samples)


def _sorted(samples: Samples) -> Samples:
    """The same by id; a table that is sorted already, as most are, needs no room for it."""
    if all(id_ <= following for id_, following in pairwise(samples.ids)):
        return samples
    order = sorted(range(len(samples)), key=samples.ids.__getitem__)
    return Samples(samples[i] for i in order)


def _table_rows(path: Path) -> Iterator[Mapping[str, object]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        with open(path, encoding="utf-8-sig") as file:  # Excel writes a byte-order mark
            if suffix not in (".jsonl", ".ndjson"):
                yield from csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                return
            for row in (json.loads(line) for line in file if line.strip()):
                if not isinstance(row, dict):
                    raise ManifestError(f"{path}: every line must be a JSON object with a 'path'")
                yield row
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} cannot be read as {suffix[1:]}: {error}") from error


def require_pyarrow() -> ModuleType:
    """The pyarrow module, with its parquet part.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyMissing("Parquet needs pyarrow: pip install 'featurepipe[parquet]'") from error
    return pyarrow


def _parquet_rows(path: Path) -> Iterator[Mapping[str, object]]:
    pyarrow = require_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # read_table would add columns from folders called key=value
            names = file.schema_arrow.names
            if "path" not in names:
                raise ManifestError(f"{path} has no column 'path' (its columns: {', '.join(names) or 'none'})")
            for batch in file.iter_batches(columns=[name for name in names if name in Sample._fields]):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read as parquet: {error}") from error


def _text(value: object) -> str | None:
    """A table cell as text; empty cells and NaN are None, and 3.0 is '3' (integers with gaps come as floats)."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def check_labels(samples: Iterable[Sample]) -> None:
    """Check that a classifier can be trained on those of these samples that have a label.

    Raises
    ------
    ManifestError
        No labels at all, a single class, or a class that occurs outside ``train`` only.
    """
    first: dict[tuple[str, str | None], str] = {}  # of each class in each split, in order
    for sample in samples:
        if sample.label is not None:
            first.setdefault((sample.label, sample.split), sample.id)
    labels = {label for label, _ in first}
    if not labels:
        raise ManifestError("no sample has a label; put images into class folders, or add a 'label' column")
    if len(labels) == 1:
        raise ManifestError(f"only one class ({labels.pop()!r}); a classifier needs at least two")
    if all(split is None for _, split in first):
        return
    trained = {label for label, split in first if split == "train"}
    for (label, split), id_ in first.items():
        if label not in trained:
            raise ManifestError(f"class {label!r} occurs in {split} only, never in train ({id_})")


def assign_splits(labels: Sequence[str], digests: Sequence[str], *, seed: int = 0) -> list[str]:
    """Split labelled samples 60/20/20 into train, val and test, class by class.

    The order inside a class is the sha256 of seed and content digest, so the split depends on nothing but
    content, label and seed; exact copies always land in the same split.

    Parameters
    ----------
    labels, digests : sequence of str
        Class and content digest of each sample.
    seed : int
        Another seed gives another split.

    Returns
    -------
    list of str
        ``'train'``, ``'val'`` or ``'test'`` for each sample.

    Notes
    -----
    A class with fewer than three distinct images gives none to val, one with a single image none to test.
    """
    members: dict[str, list[str]] = {}
    for label, digest in sorted(set(zip(labels, digests, strict=True))):
        members.setdefault(label, []).append(digest)
    chosen: dict[str, str] = {}  # by digest alone: a copy under another label must not cross splits
    for digests_of_class in members.values():
        order = sorted(digests_of_class, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest())
        test = max(1, round(TEST_SHARE * len(order))) if len(order) > 1 else 0
        val = max(1, round(VAL_SHARE * len(order))) if len(order) > 2 else 0
        for rank, digest in enumerate(order):
            chosen.setdefault(digest, "test" if rank < test else "val" if rank < test + val else "train")
    return [chosen[digest] for digest in digests]
