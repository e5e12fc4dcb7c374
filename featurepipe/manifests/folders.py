"""Samples of a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.manifests.leftovers import RUBBISH, LeftOut
from featurepipe.manifests.samples import Sample, Samples, Texts
from featurepipe.manifests.splits import SPLITS, resembles_split, split_named
from featurepipe.media import IMAGE, MEDIA, count_media

SAY_IT = "name them train/ val/ test/, or list the samples in a table with columns 'label' and 'split'"


def read_folder(root: Path, medium: str | None = None) -> tuple[Samples, LeftOut, str]:
    """The samples of a folder, sorted, what else is in it, and their medium, which may be given.

    Raises
    ------
    ManifestError
        No samples, several media, a layout that mixes two kinds, or folders that may be splits or classes.
    """
    for wanted in [MEDIA[medium].suffixes | MEDIA[medium].also] if medium else known_suffixes():
        ids, left_out = Texts(), LeftOut()
        for id_ in _find_files(root, wanted, left_out):
            ids.append(id_)
        if ids:
            break
    else:
        looked_for = MEDIA.values() if medium is None else [MEDIA[medium]]
        *most, last = [known.plural for known in looked_for]
        said = f"no {' or '.join(filter(None, [', '.join(most), last]))} under {root}; name the folder that holds them"
        if others := left_out.lines()[:2]:
            suffixes = sorted(frozenset().union(*(known.suffixes for known in looked_for)))
            said += f" (looked for {' '.join(suffixes)})"
        raise ManifestError("; ".join([said, *others]))
    medium = medium or medium_of(ids, root)
    layout = Layout.of(root, ids, MEDIA[medium].plural)
    samples = Samples(Sample(id_, id_, *layout.of_name(id_)) for id_ in ids)
    layout.check(samples)
    left_out.barren = {
        name: count
        for name, count in left_out.barren.items()
        if name.count("/") == 1 or (layout.is_split and name.partition("/")[0] in layout.folders)
    }
    return samples, left_out, medium


@dataclass(frozen=True)
class Layout:
    """What the folders in names of files mean: classes, splits above classes, or nothing.

    Attributes
    ----------
    root : str or Path
        Where the files are, for messages.
    what : str
        What they are, in the plural.
    folders : dict
        Top folder → its first file.
    is_split : bool
        Whether the top folders are splits.
    """

    root: str | os.PathLike[str]
    what: str
    folders: dict[str, str]
    is_split: bool

    @classmethod
    def of(cls, root: str | os.PathLike[str], names: Iterable[str], what: str) -> Layout:
        """Of POSIX paths below a root; a ManifestError where they mix two layouts."""
        folders: dict[str, str] = {}
        loose = None
        for name in names:
            top, slash, _ = name.partition("/")
            if slash:
                folders.setdefault(top, name)
            elif loose is None:
                loose = name
        if folders and loose is not None:
            raise ManifestError(
                f"{root} mixes {what} ({loose}) with folders of {what} ({next(iter(folders))}/); "
                f"move the loose {what} away, or list the samples in a table"
            )
        return cls(root, what, folders, _are_splits(root, list(folders)))

    def of_name(self, name: str) -> tuple[str | None, str | None]:
        """Label and split of a file."""
        depth = 1 if self.is_split else 0  # where the class folder is in a name
        parts = name.split("/", depth + 1)
        split = split_named(parts[0]) if self.is_split else None
        return parts[depth] if len(parts) > depth + 1 else None, split

    def check(self, samples: Iterable[Sample]) -> None:
        """Refuse a split folder that holds both loose files and class folders."""
        first: dict[tuple[str | None, bool], str] = {}
        for sample in samples:
            first.setdefault((sample.split, sample.label is None), sample.id)
        for split in SPLITS:
            if (split, True) in first and (split, False) in first:
                raise ManifestError(
                    f"{self.root} mixes loose {self.what} ({first[split, True]}) with class folders "
                    f"({first[split, False]}); move the loose {self.what} into class folders"
                )


def known_suffixes() -> list[frozenset[str]]:
    """Suffixes of the files of all media, and of those that count only where there are no others."""
    return [
        frozenset().union(*(medium.suffixes for medium in MEDIA.values() if medium.aside == aside))
        for aside in (False, True)
    ]


def medium_of(places: Iterable[str], where: str | os.PathLike[str]) -> str:
    """The one medium of files, by their suffixes; image where none of them is known.

    Raises
    ------
    ManifestError
        There are several.
    """
    counts = count_media(os.path.splitext(place)[1].lower() for place in places)
    if len(counts) > 1:
        held = " and ".join(f"{count:,} {MEDIA[name].plural if count > 1 else name}" for name, count in counts.items())
        raise ManifestError(f"{where} holds {held}; choose which are meant with --medium {' or '.join(counts)}")
    return next(iter(counts), IMAGE)


def _are_splits(root: str | os.PathLike[str], folders: Sequence[str]) -> bool:
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


Key = tuple[int, int] | str  # of a folder, whatever it is called


@dataclass
class _Level:
    """A folder whose names are being gone through.

    Attributes
    ----------
    folder, prefix : str
        Its path, and how the ids of its images begin.
    key : tuple or str
        What tells it from other folders.
    linked : bool
        Whether a link led here, directly or to a folder above.
    names : iterator of str
        Images and folders in it, sorted; those of folders end in a slash.
    before : int
        How many files had been left out before it.
    found : bool
        Whether there has been an image, at any depth.
    """

    folder: str
    prefix: str
    key: Key
    linked: bool
    names: Iterator[str]
    before: int
    found: bool = False


def _find_files(root: str | Path, wanted: Collection[str], left_out: LeftOut) -> Iterator[str]:
    """Relative POSIX paths of wanted files below `root`, sorted; hidden names are skipped, links are followed.

    A folder is entered under its own name, and once more through a link: both names are meant. Further links to it are
    left out, as paths through links that branch have no end, and so is a link that leads back up.

    With a slash at the end of what is a folder, sorting folder by folder gives the same order as sorting whole paths.
    """
    levels = [_enter(str(root), "", _key(str(root)), False, wanted, left_out)]
    above, entered = {levels[0].key}, set[tuple[Key, bool]]()
    while levels:
        level = levels[-1]
        name = next(level.names, None)
        if name is None:
            above.remove(levels.pop().key)
            _leave(level, levels[-1:], left_out)
            continue
        if not name.endswith("/"):
            level.found = True
            yield level.prefix + name
            continue
        folder = os.path.join(level.folder, name[:-1])
        linked = level.linked or os.path.islink(folder)
        key = _key(folder)
        if key in above or (key, linked) in entered:
            left_out.add_link(level.prefix + name[:-1])
            continue
        above.add(key)
        entered.add((key, linked))
        levels.append(_enter(folder, level.prefix + name, key, linked, wanted, left_out))


def _key(folder: str) -> Key:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(folder)  # some systems number none


def _enter(folder: str, prefix: str, key: Key, linked: bool, wanted: Collection[str], left_out: LeftOut) -> _Level:
    before = left_out.files.total()
    return _Level(folder, prefix, key, linked, _names(folder, wanted, left_out), before)


def _leave(level: _Level, above: Sequence[_Level], left_out: LeftOut) -> None:
    """Tell the folder above, if there is one, what was found, and count a class or a split that is empty."""
    for one in above:
        one.found |= level.found
    if not level.found and 0 < level.prefix.count("/") < 3:  # a class, or a split, or a class in a split
        left_out.barren[level.prefix] = left_out.files.total() - level.before


def _names(folder: str, wanted: Collection[str], left_out: LeftOut) -> Iterator[str]:
    """Sorted names of the wanted files and, with a slash, of the folders in a folder; counts what else there is."""
    names = []
    try:
        for entry in os.scandir(folder):
            name = entry.name
            suffix = os.path.splitext(name)[1].lower()
            if name.casefold() in RUBBISH and entry.is_dir():
                left_out.rubbish[name] += _count_files(entry.path)
            elif name.startswith("."):
                left_out.hidden += 1
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                names.append(name + "/")
            elif not _is_file(entry):
                left_out.special += 1
            elif suffix in wanted:
                names.append(name)
            else:
                left_out.files[suffix] += 1
    except OSError as error:
        raise _unreadable(folder, error) from error
    return iter(sorted(names))


def _unreadable(folder: str, error: OSError) -> ManifestError:
    return ManifestError(f"folder {folder} cannot be read ({error.strerror}); change its rights or move it")


def _count_files(folder: str) -> int:
    """How many files are in a folder and those in it, as far as they may be read."""
    count, folders = 0, [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                count += not entry.is_dir()
    return count


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to nothing, which is rejected by name later; not a pipe, which would be read for ever."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()
