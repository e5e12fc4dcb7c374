"""Predicted masks of images, and the files that they are written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import images
from featurepipe.errors import OutputError
from featurepipe.files import check_output, write_bytes
from featurepipe.models.folders import name_key, safe_name
from featurepipe.segmentation.closed import Patches
from featurepipe.segmentation.drawings import mask_png, overlay_png
from featurepipe.segmentation.frames import Window, classify, window_of

Files = tuple[Path, Path | None]  # of an image: the mask, and the overlay where there is one


@dataclass(frozen=True)
class Painter:
    """What makes a mask of an image and its tokens, in the image's own size.

    Attributes
    ----------
    patches : Patches
    transform : mapping
        As the spec of the backbone has it.
    values : ndarray of int64, shape (K,)
        What each class is in a mask that is written; see `featurepipe.segmentation.Masks.written`.
    ignored : int or None
        What pixels get that the network has not seen; without it, they get the nearest prediction.
    """

    patches: Patches
    transform: Mapping[str, Any]
    values: np.ndarray
    ignored: int | None

    def paint(self, tokens: np.ndarray, data: bytes, files: Files) -> np.ndarray:
        """Write the mask of an image, and the image with its colours over it if that has a place.

        Parameters
        ----------
        tokens : ndarray, shape (h, w, D)
        data : bytes
            The encoded image.
        files : (Path, Path or None)
            Where the mask and the overlay go.

        Returns
        -------
        ndarray of int64, shape (height, width)
            The class of each pixel.

        Raises
        ------
        ImageError
            The image cannot be read.
        OutputError
            The system does not let a file be written.
        """
        mask, overlay = files
        picture = None if overlay is None else images.picture_of(data)
        size = images.size_of(data) if picture is None else picture.size
        window = window_of(self.transform, size)
        said = classify(self.patches.scores(tokens), window, size, whole=True)
        write_bytes(mask, mask_png(self.values_of(said, window)))
        if overlay is not None and picture is not None:
            write_bytes(overlay, overlay_png(picture, said))
        return said

    def values_of(self, said: np.ndarray, window: Window) -> np.ndarray:
        """Class numbers (height, width) as the values of masks."""
        found = self.values[said]
        if self.ignored is not None:
            seen = np.zeros(said.shape, bool)
            seen[window.rows, window.columns] = True
            found = np.where(seen, found, self.ignored)
        return found


def places(
    folder: Path,
    ids: Iterable[str],
    inputs: Iterable[str | PathLike[str] | None],
    *,
    overlays: bool = True,
    force: bool = False,
) -> dict[str, Files]:
    """Where the mask and the overlay of each image go: ``ID.png`` and ``ID.overlay.png``, never outside of a folder.

    Parameters
    ----------
    folder : Path
    ids : iterable of str
        Ids of the images, as paths below the folder of the data.
    inputs : iterable of path or None
        What is read, and must not be replaced.
    overlays : bool
    force : bool
        Also replace somebody else's files.

    Raises
    ------
    OutputError
        One of them is an image or a mask that is read, or somebody else's file; or two images have one name.
    """
    read = _files_of(inputs)
    made: dict[str, Files] = {}
    taken: dict[str, str] = {}
    for id_ in ids:
        name = "/".join(map(safe_name, filter(None, id_.replace("\\", "/").split("/"))))
        mask, overlay = folder / f"{name}.png", folder / f"{name}.overlay.png"
        files = (mask, overlay) if overlays else (mask,)
        for path in files:
            if (other := taken.setdefault(name_key(str(path)), id_)) != id_:
                raise OutputError(f"the masks of {other!r} and {id_!r} would be one file, {path}; rename one of them")
            check_output(path, "mask", lambda _: False, [path] if _file_of(path) in read else (), force=force)
        made[id_] = (mask, overlay if overlays else None)
    return made


def _files_of(paths: Iterable[str | PathLike[str] | None]) -> set[tuple[int, int] | None]:
    """What the system knows files by, so that one under another name is the same; each is asked for once."""
    return {_file_of(path) for path in paths if path is not None} - {None}


def _file_of(path: str | PathLike[str]) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
