"""Samples of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.manifests.leftovers import RUBBISH, LeftOut
from featurepipe.manifests.samples import Sample, Samples, Texts
from featurepipe.manifests.splits import SPLITS, resembles_split, split_named

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pbm jp2 avif tga ico".split()  # noqa: SIM905
)
SAY_IT = "name them train/ val/ test/, or list the samples in a table with columns 'label' and 'split'"


def read_folder(root: Path) -> tuple[Samples, LeftOut]:
    """The samples of a folder, sorted, and what else is in it.

    Raises
    ------
    ManifestError
        No images, a layout that mixes two kinds, or folders that may be splits or classes.
    """
    ids, left_out = Texts(), LeftOut()
    for id_ in _find_images(root, left_out):
        ids.append(id_)
    if not ids:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise ManifestError(
            "; ".join(
                [f"no images under {root}; name the folder that holds them (looked for {known})", *left_out.lines()[:2]]
            )
        )
    folders: dict[str, str] = {}  # top folder -> its first image
    loose = None
    for id_ in ids:
        top, slash, _ = id_.partition("/")
        if slash:
            folders.setdefault(top, id_)
        elif loose is None:
            loose = id_
    if folders and loose is not None:
        raise ManifestError(
            f"{root} mixes images ({loose}) with folders of images ({next(iter(folders))}/); "
            "move the loose images away, or list the samples in a table"
        )
    is_split = _are_splits(root, list(folders))
    depth = 1 if is_split else 0  # where the class folder stands in an id
    samples = Samples()
    for id_ in ids:
        parts = id_.split("/", depth + 1)
        split = split_named(parts[0]) if is_split else None
        label = parts[depth] if len(parts) > depth + 1 else None
        samples.append(Sample(id_, id_, label, split))
    _check_mixed_labels(root, samples)
    left_out.barren = {
        name: count
        for name, count in left_out.barren.items()
        if name.count("/") == 1 or (is_split and name.partition("/")[0] in folders)
    }
    return samples, left_out


def _are_splits(root: Path, folders: Sequence[str]) -> bool:
    """Whether the top folders are splits; a ManifestError where they may be, or some are."""
    splits = [name for name in folders if split_named(name)]
    unsure = [name for name in folders if not split_named(name) and resembles_split(name)]
    if unsure and len(folders) > 1 and len(splits) + len(unsure) == len(folders):
        raise ManifestError(f"{root}: {unsure[0]}/ looks like a split, but it is not clear which; {SAY_IT}")
    if splits and len(splits) < len(folders):
        other = next(name for name in folders if name not in splits)
        raise ManifestError(
            f"{root} mixes split folders ({splits[0]}/) with others ({other}/); keep splits only and {SAY_IT}"
        )
    if len({split_named(name) for name in splits}) < len(splits):
        raise ManifestError(f"{root} has two folders for one split: {', '.join(splits)}; keep one of them")
    return bool(splits)


def _find_images(
    folder: str | Path, left_out: LeftOut, prefix: str = "", above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Relative POSIX paths of image files below `folder`, sorted; hidden names are skipped, links are followed.

    No more than one folder's names are held at a time. With a slash at the end of what is a folder, sorting folder
    by folder gives the same order as sorting whole paths.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up
        left_out.loops += 1
        return
    names, found, before = [], False, left_out.files.total()
    try:
        for entry in os.scandir(folder):
            name = entry.name
            suffix = os.path.splitext(name)[1].lower()
            if name.casefold() in RUBBISH and entry.is_dir():
                left_out.rubbish[name] += sum(len(files) for _, _, files in os.walk(entry.path))
            elif name.startswith("."):
                left_out.hidden += 1
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                names.append(name + "/")
            elif not _is_file(entry):
                left_out.special += 1
            elif suffix in IMAGE_SUFFIXES:
                names.append(name)
            else:
                left_out.files[suffix] += 1
    except OSError as error:
        raise ManifestError(
            f"folder {folder} cannot be read ({error.strerror}); change its rights or move it"
        ) from error
    names.sort()
    for name in names:
        if name.endswith("/"):
            for id_ in _find_images(os.path.join(folder, name[:-1]), left_out, prefix + name, above | {real}):
                found = True
                yield id_
        else:
            found = True
            yield prefix + name
    if not found and 0 < prefix.count("/") < 3:  # a class, or a split, or a class in a split
        left_out.barren[prefix] = left_out.files.total() - before


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
