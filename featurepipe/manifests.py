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
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

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


@dataclass(frozen=True)
class Manifest:
    """Samples in a stable order, below one root folder.

    Attributes
    ----------
    root : Path
        Folder that relative sample paths start from.
    samples : tuple of Sample
        Sorted by id; ids are unique.
    """

    root: Path
    samples: tuple[Sample, ...]

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
    ids = sorted(_find_images(root))
    if not ids:
        raise ManifestError(f"no images under {root} (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
    folders: dict[str, str] = {}  # top folder -> its first image
    for id_ in ids:
        if "/" in id_:
            folders.setdefault(id_.split("/", 1)[0], id_)
    loose = [id_ for id_ in ids if "/" not in id_]
    splits = [name for name in folders if name.lower() in SPLIT_NAMES]
    if folders and loose:
        raise ManifestError(
            f"{root} mixes images ({loose[0]}) with folders of images ({next(iter(folders))}/); "
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
    samples = []
    for id_ in ids:
        parts = id_.split("/")
        split = SPLIT_NAMES[parts[0].lower()] if splits else None
        label = parts[depth] if len(parts) > depth + 1 else None
        samples.append(Sample(id_, id_, label, split))
    _check_mixed_labels(root, samples)
    return Manifest(root, tuple(samples))


def _find_images(folder: str | Path, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterable[str]:
    """Relative POSIX paths of image files below `folder`; hidden names are skipped, links are followed."""
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up
        return
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise ManifestError(
            f"folder {folder} cannot be read ({error.strerror}); change its rights or move it"
        ) from error
    for entry in entries:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _find_images(entry.path, f"{prefix}{entry.name}/", above | {real})
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and _is_file(entry):
            yield prefix + entry.name


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
    rows = _table_rows(path)
    samples: list[Sample] = []
    for number, row in enumerate(rows, start=1):
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
    id_, count = Counter(sample.id for sample in samples).most_common(1)[0]
    if count > 1:
        raise ManifestError(f"{path}: id {id_!r} stands in {count} rows; ids must be unique")
    missing = [sample.path for sample in samples if not (path.parent / sample.path).is_file()]
    if missing:
        raise ManifestError(
            f"{path}: {len(missing)} of {len(samples)} files are missing, first {missing[0]!r} "
            f"(relative paths start at {path.parent})"
        )
    return Manifest(path.parent, tuple(sorted(samples)))


def _table_rows(path: Path) -> Iterable[Mapping[str, object]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _parquet_rows(path)
        text = path.read_text("utf-8-sig")  # Excel writes a byte-order mark
        if suffix in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in io.StringIO(text) if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ManifestError(f"{path}: every line must be a JSON object with a 'path'")
            return rows
        return list(csv.DictReader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ","))
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


def _parquet_rows(path: Path) -> Iterable[Mapping[str, object]]:
    pyarrow = require_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # read_table would add columns from folders called key=value
            names = file.schema_arrow.names
            if "path" not in names:
                raise ManifestError(f"{path} has no column 'path' (its columns: {', '.join(names) or 'none'})")
            return file.read(columns=[name for name in names if name in Sample._fields]).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read as parquet: {error}") from error


def _text(value: object) -> str | None:
    """A table cell as text; empty cells and NaN are None, and 3.0 is '3' (integers with gaps come as floats)."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def check_labels(samples: Sequence[Sample]) -> None:
    """Check that a classifier can be trained on these labelled samples.

    Raises
    ------
    ManifestError
        No labels at all, a single class, or a class that occurs outside ``train`` only.
    """
    labels = {sample.label for sample in samples if sample.label is not None}
    if not labels:
        raise ManifestError("no sample has a label; put images into class folders, or add a 'label' column")
    if len(labels) == 1:
        raise ManifestError(f"only one class ({labels.pop()!r}); a classifier needs at least two")
    if all(sample.split is None for sample in samples):
        return
    trained = {sample.label for sample in samples if sample.split == "train"}
    for sample in samples:
        if sample.label is not None and sample.label not in trained:
            raise ManifestError(f"class {sample.label!r} occurs in {sample.split} only, never in train ({sample.id})")


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
