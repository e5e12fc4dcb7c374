"""Images as a notebook has them: paths, encoded bytes, PIL images, uint8 arrays, and what holds a column of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featurepipe import models
from featurepipe.errors import ImageError
from featurepipe.images import ImageTransform, convert, from_array
from featurepipe.sources import Content, Files, InMemory
from featurepipe.stores import Pending

WANTED = "a path, encoded bytes, a PIL image, or a uint8 array (H, W) or (H, W, 3)"
LONGEST_PATH = 4096  # bytes; longer ones are an image
FILES = Files()
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def check_images(X: Any) -> Sequence[Any]:
    """The images of X as a sequence that is not empty; X itself where it is one.

    Raises
    ------
    ValueError
        X is something else; the message says what, and what to give instead.
    """
    if isinstance(X, str | PathLike) and os.path.isdir(X):
        raise ValueError(
            f"X is the folder {str(X)!r}; give the list of its images: sorted(Path({str(X)!r}).rglob('*.jpg'))"
        )
    if _is_one_image(X):
        raise ValueError(f"X is a list of images; wrap the single {type(X).__name__} in a list: [X]")
    if isinstance(X, np.ndarray):
        return _of_array(X)
    if isinstance(X, Mapping):
        raise ValueError(f"X is a {type(X).__name__} of {_some(list(X))}; give the list of its images: X[{_first(X)}]")
    if (columns := _columns(X)) is not None:
        return check_images(_single_column(X, columns))
    if _is_tensor(X):
        raise ValueError(f"X is {_described(X)}; {_as_arrays(X, 'X', 4)}")
    if isinstance(X, Set):
        raise ValueError("X is a set, which has no order that labels could follow; give a list of images")
    for convert_ in ("to_pylist", "to_list", "tolist"):  # a column of pyarrow, polars or pandas
        if hasattr(X, convert_):
            X = getattr(X, convert_)()
            break
    if not hasattr(X, "__len__") or hasattr(X, "toarray"):  # a sparse matrix has no length either
        hint = "; it is read more than once, so give list(X)" if hasattr(X, "__next__") else ""
        raise ValueError(f"X is a list of images; got {type(X).__name__}{hint}")
    if not len(X):
        raise ValueError("X holds 0 samples; at least 1 image is needed")
    return X if hasattr(X, "__getitem__") else list(X)


def listed(X: Any, transform: ImageTransform) -> list[Pending]:
    """Each image of X with the digest of its content; files keep the digest of their bytes, so that stores agree.

    Raises
    ------
    ImageError
        One is not an image, or cannot be read.
    """
    images = check_images(X)
    # a torch Dataset may go on beyond its length for ever
    items = images if hasattr(images, "__iter__") else (images[i] for i in range(len(images)))
    contents = dict[str, Content]()
    memory = InMemory(contents)  # grows as they are listed
    return [_pending(item, index, transform, memory, contents) for index, item in enumerate(items)]


def _pending(
    item: Any, index: int, transform: ImageTransform, memory: InMemory, contents: dict[str, Content]
) -> Pending:
    """One image, which is kept in memory unless it is a file."""
    try:
        content: Path | Image.Image | Content = content_of(item)
        if isinstance(content, Path):
            FILES.stamp(str(content))  # which refuses what is no file
            return Pending(FILES.digest(str(content)), FILES, str(content))
        if isinstance(content, Image.Image):
            content = np.asarray(convert(content, transform.input_size[0]))
        contents[str(index)] = content
        return Pending(memory.digest(str(index)), memory, str(index))
    except OSError as error:
        raise ImageError(f"{named(index, item)} cannot be read: {error.strerror or error}") from error
    except ImageError as error:
        raise ImageError(f"{named(index, item)}: {error}") from error


def named(index: int, item: Any) -> str:
    """What to call an image of X: its number, and its path where it has one."""
    is_path = isinstance(item, (str, PathLike)) or (isinstance(item, bytes) and _is_path(item))
    return f"image {index} ({os.fsdecode(item)})" if is_path else f"image {index}"


def titled(index: int, item: Pending) -> str:
    """What `named` calls an image that has been listed."""
    return named(index, None if isinstance(item.source, InMemory) else item.place)


def keys_of_files(items: Sequence[Pending]) -> np.ndarray:
    """What a model file remembers of those images that are files or their bytes, uint64."""
    return models.digest_keys([item.digest for item in items if not _is_decoded(item)])


def _is_decoded(item: Pending) -> bool:
    return isinstance(item.source, InMemory) and not isinstance(item.source.contents[item.place], bytes)


def image_tags(tags: Any) -> Any:
    """Input is images, or text that names their files; no 2-D array."""
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags


def content_of(item: Any) -> Path | bytes | Image.Image:
    """A file's place, its bytes, or a PIL image.

    Raises
    ------
    ImageError
        It is not one of these.
    """
    if hasattr(item, "as_py"):  # a scalar of pyarrow
        item = item.as_py()
    if (
        isinstance(item, Mapping) and item and item.keys() <= {"bytes", "path"}
    ):  # how Hugging Face datasets hold an image
        item = item.get("path") if item.get("bytes") is None else item["bytes"]
    if _is_open(item):
        item = _read(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        item = bytes(item)
        if not _is_path(item) and item.isascii() and item.decode().isprintable() and item:
            raise ImageError(f"these bytes are not an image, and no file is called {item[:80]!r}")
        return Path(os.fsdecode(item)) if _is_path(item) else item
    if isinstance(item, (str, PathLike)):
        if isinstance(item, str) and URL.match(item):
            raise ImageError("this is a URL; download the file and give its path, or the bytes")
        return Path(os.fsdecode(item))
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, np.ndarray):
        return from_array(_checked(item))
    raise ImageError(_refusal(item))


def _checked(array: np.ndarray) -> np.ndarray:
    """One image's array, if it is uint8 of a shape that an image can have."""
    shape = array.shape
    if array.dtype != np.uint8:
        raise ImageError(f"an image array is uint8; got {array.dtype} {shape}{_to_uint8(array, 'it')}")
    if len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise ImageError(f"channels come last, as (H, W, 3); got {shape}: transpose it by (1, 2, 0)")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image array is uint8 of shape (H, W) or (H, W, 3); got {array.dtype} {shape}")
    return array


def _refusal(item: Any) -> str:
    """Why something is not an image, and what to do."""
    if is_missing(item):
        return f"it is missing ({item!r}); leave it out of X and y"
    if _is_tensor(item):
        return f"it is {_described(item)}; {_as_arrays(item, 'it', 3)}"
    if isinstance(item, Mapping):
        return f"it is a dict of {_some(list(item))}; give the image alone: [d[{_first(item)}] for d in X]"
    if isinstance(item, (tuple, list)) and item and _is_one_image(item[0]):
        return f"it is a {type(item).__name__} of an image and more; give the images alone: [d[0] for d in X]"
    if isinstance(item, (tuple, list)) and item and (_is_tensor(item[0]) or isinstance(item[0], np.ndarray)):
        return f"it is a {type(item).__name__} of an array and more; give the images alone: [d[0] for d in X]"
    return f"an image is {WANTED}; got {type(item).__name__}"


def _of_array(X: np.ndarray) -> Sequence[Any]:
    """The images of one array: texts, bytes and objects, or pixels (n, H, W), (n, H, W, 3)."""
    shape = X.shape
    if X.ndim and not len(X):
        raise ValueError("X holds 0 samples; at least 1 image is needed")
    if X.dtype.kind in "OUS":
        if X.ndim != 1 and shape[1:] != (1,):
            raise ValueError(f"X is an array of {X.dtype.name} of shape {shape}; give one column, of shape (n,)")
        return X.ravel().tolist()
    if X.dtype != np.uint8:
        raise ValueError(
            f"an array of images is uint8 of shape (n, H, W) or (n, H, W, 3); got {X.dtype} {shape}{_to_uint8(X, 'X')}"
        )
    if X.ndim == 3 and shape[2] in (3, 4):
        raise ValueError(
            f"X of shape {shape} may be one image in colour or {shape[0]} in grey; give [X] for one, X[..., None] for "
            f"{shape[0]}"
        )
    if X.ndim == 4 and shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4):
        raise ValueError(f"channels come last, as (n, H, W, 3); got {shape}: give X.transpose(0, 2, 3, 1)")
    if X.ndim not in (3, 4) or (X.ndim == 4 and shape[3] not in (1, 3, 4)):
        hint = "; wrap a single image in a list: [X]" if X.ndim == 2 else ""
        raise ValueError(f"an array of images is uint8 of shape (n, H, W) or (n, H, W, 3); got {X.dtype} {shape}{hint}")
    return X  # type: ignore[return-value]  # an array is no Sequence, but has what is asked of one here


def _to_uint8(array: np.ndarray, name: str) -> str:
    """How to make uint8 of other numbers, as far as their range says it."""
    if array.dtype.kind not in "fiub" or not array.size:
        return ""
    least, most = float(array.min()), float(array.max())
    if least >= 0 and most <= 1 and array.dtype.kind in "fb":
        return f"; scale {name} to 0…255: ({name} * 255).round().astype('uint8')"
    if least >= 0 and most <= 255:
        return f"; convert {name}: {name}.astype('uint8')"
    return f"; its values go from {least:g} to {most:g}: undo the normalisation, scale to 0…255 and convert to uint8"


def _is_tensor(value: Any) -> bool:
    """Whether this is an array of another library, such as torch; columns of tables have one dimension."""
    return hasattr(value, "__array__") and not isinstance(value, np.ndarray) and getattr(value, "ndim", 0) >= 2


def _described(tensor: Any) -> str:
    return (
        f"a {type(tensor).__module__.partition('.')[0]} {type(tensor).__name__} {tuple(tensor.shape)} of {tensor.dtype}"
    )


def _as_arrays(tensor: Any, name: str, dimensions: int) -> str:
    """How to make uint8 arrays of a tensor."""
    shape, at = tuple(tensor.shape), dimensions - 3
    wanted = "(n, H, W, 3)" if dimensions == 4 else "(H, W, 3)"
    first = len(shape) == dimensions and shape[at] in (1, 3, 4) and shape[-1] not in (1, 3, 4)
    order = "(0, 2, 3, 1)" if dimensions == 4 else "(1, 2, 0)"
    moved = f", channels last ({name}.permute{order})" if first else ""
    scaled = "" if "uint8" in str(tensor.dtype) else ", scaled to 0…255 (× 255 where it is 0…1)"
    return f"give NumPy arrays of uint8 {wanted}{moved}{scaled}"


def _columns(X: Any) -> list[str] | None:
    """The columns of a table of pandas, polars, pyarrow or Hugging Face; None for anything else."""
    names = getattr(X, "column_names", None)
    if names is None and hasattr(X, "shape"):
        names = getattr(X, "columns", None)
    return None if names is None or callable(names) else [str(name) for name in names]


def _single_column(X: Any, columns: list[str]) -> Any:
    """The only column of a table."""
    if len(columns) != 1:
        example = f"X[{columns[0]!r}]" if columns else "X['path']"
        raise ValueError(f"X is a {type(X).__name__} with {_some(columns)}; give one column, such as {example}")
    if hasattr(X, "iloc"):
        return X.iloc[:, 0]
    return X[columns[0]]


def _is_one_image(value: Any) -> bool:
    return isinstance(value, (str, bytes, bytearray, memoryview, PathLike, Image.Image)) or _is_open(value)


def _is_open(value: Any) -> bool:
    """Whether this is an open file, or `io.BytesIO`."""
    return hasattr(value, "read") and hasattr(value, "seek")


def _is_path(data: bytes) -> bool:
    """Whether bytes name a file, rather than being one."""
    return len(data) <= LONGEST_PATH and b"\0" not in data and os.path.exists(data)


def _read(file: Any) -> bytes:
    """All of an open file, which is left where it was."""
    if getattr(file, "closed", False):
        raise ImageError("it is a file that has been closed; give its path")
    at = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(at)
    if not isinstance(data, bytes):
        raise ImageError("it is a file opened as text; open it with mode 'rb'")
    return data


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas.NA."""
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, (float, np.floating)) and np.isnan(value))
    )


def _some(names: Sequence[Any]) -> str:
    """A few names, and how many there are."""
    shown = ", ".join(map(str, names[:4])) or "nothing"
    return f"{shown}, … ({len(names)} in all)" if len(names) > 4 else shown


def _first(item: Mapping[Any, Any]) -> str:
    return repr(next(iter(item), "image"))
