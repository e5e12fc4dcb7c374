"""Masks: images whose pixels say a class, next to the images that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from featurepipe.errors import SegmentationError
from featurepipe.images.orientations import upright
from featurepipe.segmentation.drawings import LARGEST
from featurepipe.segmentation.frames import Window
from featurepipe.tables import TABLE_SUFFIXES, Table

COLUMN = "mask"
SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")  # without loss, unlike JPEG
MOST = 4096  # classes
NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of masks that are not colours
NOTHING = -1  # the class of pixels that do not count


@dataclass(frozen=True)
class Masks:
    """The masks of a data set.

    Attributes
    ----------
    places : dict
        Sample id → file.
    values : ndarray of int64, shape (K,)
        What each class is in the files, ascending: a number, or of colours red · 65536 + green · 256 + blue.
    names : tuple of str
    ignored : int or None
        The value of pixels that do not count.
    coloured : bool
        Whether the values stand for colours.
    """

    places: Mapping[str, Path]
    values: np.ndarray
    names: tuple[str, ...]
    ignored: int | None
    coloured: bool = False

    @property
    def written(self) -> tuple[np.ndarray, int | None]:
        """The values, and the ignored one, of masks that are written: what a PNG cannot hold becomes class numbers."""
        if self.coloured or max(int(self.values[-1]), self.ignored or 0) > LARGEST:
            return np.arange(len(self.values)), None
        return self.values, self.ignored

    def read(self, id_: str, size: tuple[int, int]) -> np.ndarray:
        """A mask as class numbers, int64 (height, width); -1 where pixels do not count.

        Raises
        ------
        SegmentationError
            It has another size than its image, or a value that is no class.
        """
        path = self.places[id_]
        found = read_values(path)
        if found.shape[::-1] != tuple(size):
            width, height = found.shape[::-1]
            raise SegmentationError(
                f"mask {path} has {width}×{height} pixels and its image {size[0]}×{size[1]}; give masks of the images' "
                "size"
            )
        numbers = np.searchsorted(self.values, found)
        known = self.values[np.minimum(numbers, len(self.values) - 1)] == found
        counts = known if self.ignored is None else known | (found == self.ignored)
        if not counts.all():
            value = int(found[~counts][0])
            raise SegmentationError(
                f"mask {path} holds {value}, which is in no training mask; leave these pixels out with --ignore "
                f"{value}, or give training images of that class"
            )
        return np.where(known, numbers, NOTHING)


def read_values(path: Path) -> np.ndarray:
    """What a file says of each pixel, int64 (height, width).

    Numbers of grey images and of palettes are what they are; colours become one number each.

    Raises
    ------
    SegmentationError
        It is no image, or one that loses detail.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SegmentationError(f"mask {path} is not one of {' '.join(SUFFIXES)}; a JPEG changes its values. Save PNG")
    try:
        with Image.open(path) as opened:
            image = upright(opened)
            if image.mode in NUMBERS:
                found = np.asarray(image).astype(np.int64)
            else:
                colours = np.asarray(image.convert("RGB")).astype(np.int64)
                found = (colours * (65536, 256, 1)).sum(-1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SegmentationError(f"mask {path} cannot be read: {error}; make it again") from error
    return found


def _is_coloured(path: Path) -> bool:
    """Whether a mask, which can be read, has colours for values."""
    with Image.open(path) as opened:
        return opened.mode not in NUMBERS


def find_masks(given: str | Path, samples: Iterable[tuple[str, str]]) -> dict[str, Path]:
    """Sample id → mask file, of the samples that have one.

    Parameters
    ----------
    given : path
        A table with the columns ``path`` (or ``id``) and ``mask``, or a folder of masks, each called as its image, with
        another suffix if need be.
    samples : iterable of (str, str)
        Id and place of each sample.

    Raises
    ------
    SegmentationError
        No masks there, or none that belongs to a sample.
    """
    path, pairs = Path(given), list(samples)
    if not path.is_dir():
        known = _of_table(path)
        found = {id_: known[name] for id_, place in pairs for name in (place, id_) if name in known}
    else:
        found = _matched(path, pairs)
    if not found:
        example = pairs[0][1] if pairs else ""
        raise SegmentationError(
            f"no mask in {path} belongs to a sample of the store ({example!r}, …); in a folder, masks are called as "
            "their images; in a table, the column path (or id) is as the data have it"
        )
    return found


def _matched(folder: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, Path]:
    """Masks of a folder by the ends of paths: the longest that a mask and a sample share, if it is theirs alone.

    Raises
    ------
    SegmentationError
        A mask may belong to several samples, or a sample has several masks.
    """
    masks = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not masks:
        raise SegmentationError(f"{folder} holds no masks ({' '.join(SUFFIXES)}); give a folder of masks, or a table")
    names = {mask: _parts(mask.relative_to(folder).as_posix()) for mask in masks}
    samples = {id_: _parts(place) for id_, place in pairs}
    found: dict[str, Path] = {}
    for length in range(max(map(len, samples.values()), default=0), 0, -1):
        by_mask, by_sample = _by_end(names, length), _by_end(samples, length)
        for end in by_mask.keys() & by_sample.keys():
            mine, theirs = by_sample[end], by_mask[end]
            if len(mine) > 1 or len(theirs) > 1:
                raise SegmentationError(
                    f"it is not clear which of the masks {', '.join(map(str, theirs[:2]))} belongs to which of the "
                    f"samples {', '.join(mine[:2])}; give a table with the columns path and mask"
                )
            found[mine[0]] = theirs[0]
            del names[theirs[0]], samples[mine[0]]
    return found


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the name of a file, without its suffix."""
    return PurePosixPath(name).with_suffix("").parts


def _by_end(names: Mapping[Any, tuple[str, ...]], length: int) -> dict[tuple[str, ...], list[Any]]:
    """Whose paths end in the same parts, of those with as many."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for one, parts in names.items():
        if len(parts) >= length:
            found.setdefault(parts[-length:], []).append(one)
    return found


def _of_table(path: Path) -> dict[str, Path]:
    if path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
        raise SegmentationError(
            f"{path} is neither a folder of masks nor a table ({' '.join(sorted(TABLE_SUFFIXES))}) with a column "
            f"{COLUMN!r}; give one of these"
        )
    table = Table(path, [], ["id", "path", COLUMN], keys=("id", "path", COLUMN))
    found = {}
    for _, cells in table:
        mask = (cells.get(COLUMN) or "").strip()
        for name in (cells.get("id"), cells.get("path")):
            if mask and name:
                found[name.strip()] = path.parent / mask
    if COLUMN not in table.used:
        there = ", ".join([*table.used, *table.unused])
        raise SegmentationError(f"{path} has no column {COLUMN!r} (its columns: {there}); it names each image's mask")
    return found


def learn_classes(
    places: Mapping[str, Path], learned: Sequence[str], names: Sequence[str] | None, ignored: int | None
) -> Masks:
    """The classes of the training masks: all values that they hold, but the ignored one.

    Parameters
    ----------
    places : mapping
        Sample id → file.
    learned : sequence of str
        Ids of the samples that are learned from.
    names : sequence of str, optional
        What the classes are called, in the order of their values.
    ignored : int, optional

    Raises
    ------
    SegmentationError
        Fewer than two classes, thousands of them, another number of names, or an ignored value below 0.
    """
    if ignored is not None and ignored < 0:
        raise SegmentationError(f"no pixel of a mask is {ignored}; the value to ignore is 0 or more, such as 255")
    values = np.zeros(0, np.int64)
    for id_ in learned:
        values = np.union1d(values, read_values(places[id_]))
        if len(values) > MOST:
            raise SegmentationError(
                f"the training masks hold more than {MOST:,} values, so they seem to be pictures; give masks whose "
                "pixels are class numbers or one colour for each class"
            )
    if ignored is not None:
        values = values[values != ignored]
    if len(values) < 2:
        there = f"only the class {values[0]}" if len(values) else "no class"
        raise SegmentationError(f"the training masks hold {there}; segmentation needs two")
    if names is not None and len(names) != len(values):
        shown = ", ".join(map(str, values[:8].tolist()))
        raise SegmentationError(
            f"{len(names)} class names are given, and the training masks hold {len(values)} classes ({shown}"
            f"{', …' if len(values) > 8 else ''}); give one name for each, in this order"
        )
    called = tuple(names) if names is not None else tuple(map(str, values.tolist()))
    if len(set(called)) < len(called):
        raise SegmentationError(f"two classes have the same name ({', '.join(called[:8])}); give different names")
    return Masks(dict(places), values, called, ignored, any(_is_coloured(places[id_]) for id_ in learned))


def shares(mask: np.ndarray, window: Window, cells: tuple[int, int], classes: int) -> np.ndarray:
    """How much of each cell of a window is of each class, float64 (rows, columns, K).

    A cell of a whole image's pixels that all count sums to 1, and one without any to 0.

    Parameters
    ----------
    mask : ndarray of int64, shape (height, width)
        Class numbers; -1 does not count.
    window : Window
    cells : tuple of int
        Rows and columns.
    classes : int

    Examples
    --------
    >>> mask = np.array([[0, 0, 1, 1], [0, 0, 1, -1]])
    >>> shares(mask, Window(0, 0, 4, 2), (1, 2), 2).tolist()
    [[[1.0, 0.0], [0.0, 0.75]]]
    """
    part = mask[window.rows, window.columns]
    down = _cell_of(mask.shape[0], window.rows, window.top, window.height, cells[0])
    across = _cell_of(mask.shape[1], window.columns, window.left, window.width, cells[1])
    place = down[:, None] * cells[1] + across[None, :]  # (rows, columns)
    counted = part >= 0
    flat = place[counted] * classes + part[counted]
    counts = np.bincount(flat, minlength=cells[0] * cells[1] * classes).astype(float)
    whole = np.maximum(np.bincount(place.ravel(), minlength=cells[0] * cells[1]), 1)
    return counts.reshape(*cells, classes) / whole.reshape(*cells, 1)


def _cell_of(length: int, inside: slice, start: float, extent: float, cells: int) -> np.ndarray:
    """The cell of each row or column of pixels."""
    places = np.arange(length)[inside] + 0.5
    return np.clip(((places - start) / extent * cells).astype(int), 0, cells - 1)
