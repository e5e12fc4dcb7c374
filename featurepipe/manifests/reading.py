"""Reading a manifest from a folder or a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.manifests.samples import Sample, Samples, Texts
from featurepipe.manifests.tables import TABLE_SUFFIXES, cell_text, table_rows

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pbm jp2 avif tga ico".split()  # noqa: SIM905
)


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
    ids = Texts()
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
    for number, row in enumerate(table_rows(path, ["path"], Sample._fields), start=1):
        file = cell_text(row.get("path"))
        if None in row:
            raise ManifestError(
                f"{path}: row {number} ({file}) has more cells than the header; quote cells with commas"
            )
        if file is None:
            columns = ", ".join(map(str, row)) or "none"
            raise ManifestError(f"{path}: row {number} has no 'path' (its columns: {columns})")
        split = cell_text(row.get("split"))
        if split is not None and split.lower() not in SPLIT_NAMES:
            raise ManifestError(f"{path}: row {number} ({file}) has unknown split {split!r}; use train, val or test")
        samples.append(
            Sample(
                cell_text(row.get("id")) or file.replace(os.sep, "/"),
                file,
                cell_text(row.get("label")),
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
