"""Reading a manifest from a source that says what it holds: an archive, say, or a data set of another library."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from featurepipe.errors import ManifestError
from featurepipe.manifests.folders import Layout, known_suffixes, medium_of
from featurepipe.manifests.leftovers import RUBBISH, LeftOut, shortened
from featurepipe.manifests.samples import Sample, Samples, Texts
from featurepipe.manifests.splits import split_named
from featurepipe.media import IMAGE, MEDIA
from featurepipe.sources import Columns, Container, Item

NAMED = 3  # samples without a label
COUNTED = re.compile(r"(part|shard|chunk|batch|archive|volume|vol)[-_ ]?\d+", re.IGNORECASE)  # no class is called that


def read_container(container: Container, columns: Columns, medium: str | None = None) -> tuple[Samples, LeftOut, str]:
    """The samples of a container, sorted, what else is in it, and their medium, which may be given.

    Where it says labels itself, these count; else folders in the names of its files mean what they mean below a folder.
    A folder that all files lie in, as programs put it around what they pack, means nothing.

    Raises
    ------
    ManifestError
        No samples, several media, names that mix two layouts, or a container that cannot be read.
    """
    listing = container.list_items(columns)
    left_out = LeftOut()
    if listing.is_tree:
        items = _wanted(container, listing.items, left_out, medium)
        medium = medium or medium_of(items.ids, container.root)
        samples = _laid_out(container, items, MEDIA[medium].plural, listing.remarks)
    else:
        samples = _in_order(_with_split(container, item) for item in listing.items)
        double = _double(samples)
        if double is not None and listing.numbered is not None:
            samples = _in_order(_with_split(container, item) for item in listing.numbered())
            listing.remarks.append(f"ids occur more than once, first {double!r}, so each row is called by its number")
        medium = medium or listing.medium or IMAGE
    if not samples:
        raise ManifestError(f"{container.root} holds no {MEDIA[medium].plural}")
    left_out.remarks, left_out.columns, left_out.missing = listing.remarks, listing.columns, listing.missing
    samples = _once(_in_order(samples), left_out)
    _name_unlabelled(samples, left_out)
    return samples, left_out, medium


def _wanted(container: Container, items: Iterable[Item], left_out: LeftOut, medium: str | None) -> Samples:
    """Those items whose suffixes are of a medium, as samples that are called what they are called inside."""
    sets = [MEDIA[medium].suffixes | MEDIA[medium].also] if medium else known_suffixes()
    found = [Samples() for _ in sets]
    for item in items:
        if _hidden(item.name, left_out):
            continue
        suffix = os.path.splitext(item.name)[1].lower()
        fitting = next((number for number, wanted in enumerate(sets) if suffix in wanted), None)
        if fitting is None:
            left_out.files[suffix] += 1
        else:
            found[fitting].append(_named(container, item))
    for number, samples in enumerate(found):
        if samples:
            for others in found[number + 1 :]:
                left_out.files.update(os.path.splitext(name)[1].lower() for name in others.ids)
            return samples
    known = MEDIA[medium or IMAGE]
    looked = " ".join(sorted(known.suffixes))
    said = [f"no {known.plural} in {container.root} (looked for {looked})", *left_out.lines()[:2]]
    raise ManifestError("; ".join(said))


def _named(container: Container, item: Item) -> Sample:
    """A sample that is called what its item is called inside, with the split that it says."""
    split = split_named(item.split or "")
    if (item.split or "").strip() and split is None:
        raise ManifestError(
            f"{container.root}: {item.name} has unknown split {item.split!r}; use train, val or test, or leave it empty"
        )
    return Sample(item.name, item.place, item.label, split, item.group)


def _hidden(name: str, left_out: LeftOut) -> bool:
    """Whether a file or a folder above it is hidden, or made by a program; it is counted then."""
    for part in name.split("/"):
        if part.casefold() in RUBBISH:
            left_out.rubbish[part] += 1
            return True
        if part.startswith("."):
            left_out.hidden += 1
            return True
    return False


def _laid_out(container: Container, items: Samples, what: str, remarks: list[str]) -> Samples:
    """Items with the labels and splits that they have, or that their folders say."""
    names, layout = items.ids, None
    is_labelled = any(item.label is not None for item in items)
    if not is_labelled:
        names = _unwrapped(items, remarks)
    wrapper = len(_wrapper(names))
    if not is_labelled:
        layout = Layout.of(container.root, (name[wrapper:] for name in names), what)
    samples = Samples()
    for item, inside in zip(items, names, strict=True):
        name = inside[wrapper:]
        label, split = layout.of_name(name) if layout else (item.label, split_named(name.partition("/")[0]))
        above = _split_above(item.place, item.id) if item.place != item.id else None  # of several archives
        id_ = name if item.place == item.id else item.place
        samples.append(item._replace(id=id_, label=label, split=item.split or split or above))
    if layout is not None:
        layout.check(samples)
    return samples


def _unwrapped(items: Samples, remarks: list[str]) -> Sequence[str]:
    """Names without a folder that each of several archives has around all of its files, and which only counts them.

    These are folders whose names say so (``part-1/``, ``part-2/``) and which hold the same folders.
    """
    tops, inner, is_deep = dict[str, set[str]](), dict[str, set[str]](), True
    for item in items:
        archive, parts = item.place.removesuffix(item.id), item.id.split("/", 2)
        tops.setdefault(archive, set()).add(parts[0])
        inner.setdefault(archive, set()).add(parts[1] if len(parts) > 2 else "")
        is_deep &= len(parts) > 2
        if not is_deep or len(tops[archive]) > 1:
            return items.ids
    named = {top for its in tops.values() for top in its}
    folders = Counter(folder for its in inner.values() for folder in its)
    if len(named) < 2 or not all(map(COUNTED.fullmatch, named)) or len(folders) < 2 or max(folders.values()) < 2:
        return items.ids
    remarks.append(f"each archive has a folder of its own around its files, such as {min(named)}/, which is no class")
    names = Texts()
    for name in items.ids:
        names.append(name.partition("/")[2])
    return names


def _with_split(container: Container, item: Item) -> Sample:
    """A sample with the split that its container, or the name of the file that it is in, says."""
    sample = _named(container, item)
    return sample._replace(split=sample.split or _split_above(item.place, item.place.rpartition("/")[2]))


def _split_above(place: str, inside: str) -> str | None:
    """The one split that the path of an archive names, such as ``data/train-00000-of-00002.parquet``."""
    named = {split_named(word) for word in re.split(r"[^A-Za-z]+", place.removesuffix(inside))} - {None}
    return named.pop() if len(named) == 1 else None


def _wrapper(names: Iterable[str]) -> str:
    """The folders that all names lie in, and more folders below them; not one that names a split."""
    wrapper = ""
    while True:
        tops, is_deep = set(), True
        for name in names:
            top, slash, rest = name[len(wrapper) :].partition("/")
            tops.add(top)
            is_deep = bool(slash) and "/" in rest
            if len(tops) > 1 or not is_deep or split_named(top):
                return wrapper
        if not tops:
            return wrapper
        wrapper += f"{tops.pop()}/"


def _in_order(samples: Iterable[Sample]) -> Samples:
    """Samples by id."""
    found = samples if isinstance(samples, Samples) else Samples(samples)
    if all(id_ <= following for id_, following in pairwise(found.ids)):
        return found
    order = sorted(range(len(found)), key=found.ids.__getitem__)
    return Samples(found[i] for i in order)


def _double(samples: Samples) -> str | None:
    """The first id that two of sorted samples have."""
    return next((id_ for id_, following in pairwise(samples.ids) if id_ == following), None)


def _once(samples: Samples, left_out: LeftOut) -> Samples:
    """Sorted samples, each once."""
    if _double(samples) is None:
        return samples
    last = [id_ != following for id_, following in pairwise(samples.ids)] + [True]
    doubles = last.count(False)
    left_out.remarks.append(
        f"{doubles:,} name{' occurs' if doubles == 1 else 's occur'} more than once; the last file of each name counts"
    )
    return Samples(one for one, is_last in zip(samples, last, strict=True) if is_last)


def _name_unlabelled(samples: Samples, left_out: LeftOut) -> None:
    """Name the first samples without a label, where others have one."""
    without = [one.id for one in samples if one.label is None]
    if without and len(without) < len(samples):
        left_out.remarks.append(f"without a label: {shortened(without, NAMED)}")
