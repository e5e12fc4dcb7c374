"""Data sets as Python objects: whatever has a length and gives (image, label) for a number."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.estimators.images import Images
from featurepipe.images import ImageTransform
from featurepipe.manifests import LeftOut, Manifest, Sample, Samples
from featurepipe.media import IMAGE
from featurepipe.sources import Content, Files, Objects
from featurepipe.tables.cells import cell_text

DIGITS = 7  # of an item's number, so that items keep their order
ROWS = Images(ImageTransform((3, 1, 1), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0))  # of which only the channels matter
KEYS = ("image", "img", "pixel_values"), ("label", "labels", "target")  # of items that are dicts


class Dataset(Protocol):
    """A data set of the map style, such as torchvision's: numbers below its length give items."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def is_dataset(data: object) -> bool:
    """Whether an object is a data set of the map style, and no path, manifest or list of paths."""
    if isinstance(data, str | bytes | os.PathLike | Manifest | Mapping):
        return False
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def of_dataset(data: Any) -> Manifest:
    """The manifest of a data set object.

    Where it keeps a list of files, as torchvision's ``ImageFolder`` does, the files are the samples, so that commands
    find them again; its own transform is not used, as a backbone has one. Else an item is an image, a pair of image and
    label, or a dict of these, and images are what `featurepipe.FeatureExtractor` takes. Numbers of classes become the
    names in ``classes``, if it has them.

    Raises
    ------
    ManifestError
        It is empty, or a label is not text or a number.

    Examples
    --------
    >>> grey = np.zeros((8, 8), np.uint8)
    >>> manifest = of_dataset([(grey, "black"), (grey + 255, "white")])
    >>> [(one.id, one.label) for one in manifest.samples]
    [('0000000', 'black'), ('0000001', 'white')]
    """
    name = type(data).__name__
    if not len(data):
        raise ManifestError(f"the data set {name} holds 0 samples; at least 1 image is needed")
    files = _files(data)
    if files is not None:
        return _of_files(data, files)
    labels = _labels(data, name)
    samples = Samples(Sample(f"{i:0{DIGITS}}", str(i), label, None) for i, label in enumerate(labels))
    return Manifest(Objects(data, _content, name), samples, medium=IMAGE)


def _of_files(data: Any, files: Sequence[tuple[str, Any]]) -> Manifest:
    common = os.path.commonpath([os.path.abspath(os.path.dirname(file)) for file, _ in files])
    root = os.path.abspath(getattr(data, "root", None) or common)
    found = {}
    for number, (file, target) in enumerate(files):
        place = os.path.relpath(os.path.abspath(file), root)
        id_ = place.replace(os.sep, "/")
        found[id_] = Sample(id_, place, _label(data, target, number), None)
    remarks = ["the data set's own transform is not used: the backbone has one"] if _transforms(data) else []
    return Manifest(Files(root), Samples(found[id_] for id_ in sorted(found)), LeftOut(remarks=remarks), IMAGE)


def _transforms(data: Any) -> bool:
    return any(getattr(data, name, None) is not None for name in ("transform", "transforms"))


def _files(data: Any) -> list[tuple[str, Any]] | None:
    """Path and target of each item, where a data set keeps them; of a torch ``Subset`` those that it has."""
    if hasattr(data, "dataset") and hasattr(data, "indices"):
        inner = _files(data.dataset)
        return None if inner is None else [inner[i] for i in data.indices]
    kept = getattr(data, "samples", None)
    if not isinstance(kept, list) or not kept or len(kept) != len(data):
        return None
    pairs = all(isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str | Path) for one in kept)
    return [(os.fspath(file), target) for file, target in kept] if pairs and os.path.exists(kept[0][0]) else None


def _labels(data: Any, name: str) -> Iterator[str | None]:
    """The labels, item by item: as it keeps them for itself, or else each item is asked for."""
    kept = getattr(data, "targets", None)
    if kept is not None and len(kept) == len(data):
        yield from (_label(data, target, number) for number, target in enumerate(kept))
        return
    for number in range(len(data)):
        try:
            item = data[number]
        except Exception:  # the code is the user's; when the item is read, this rejects it by name
            yield None
            continue
        yield _label(data, _parts(item)[1], number)


def _label(data: Any, target: Any, number: int) -> str | None:
    if hasattr(target, "tolist"):  # of NumPy and torch
        target = target.tolist()
    names = _names(data)
    if isinstance(names, list | tuple) and isinstance(target, int) and not isinstance(target, bool):
        target = names[target] if 0 <= target < len(names) else target
    try:
        return cell_text(target)
    except ValueError as error:
        raise ManifestError(f"item {number} of {type(data).__name__}: the label {error}") from error


def _names(data: Any) -> Any:
    """The names of classes that a data set has, or the one that it is a part of, at any depth; None where none has."""
    seen = list[int]()
    while data is not None and id(data) not in seen:
        seen.append(id(data))
        names = getattr(data, "classes", None)
        if names:
            return names
        data = getattr(data, "dataset", None)
    return None


def _parts(item: Any) -> tuple[Any, Any]:
    """Image and label of an item; a label of None where it has none."""
    if isinstance(item, Mapping) and not item.keys() <= {"bytes", "path"}:
        image, label = (next((item[key] for key in keys if key in item), None) for keys in KEYS)
        return image, label
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _content(item: Any) -> Content:
    """The bytes or the pixels of an item's image."""
    found = ROWS.content(_parts(item)[0])
    return inputs.content(found, inputs.IMAGE_BYTES) if isinstance(found, Path) else found
