"""Images as a notebook has them: paths, PIL images, uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from featurepipe import backbones, models
from featurepipe.digests import sha256_bytes, sha256_file
from featurepipe.errors import ImageError
from featurepipe.images import convert, from_array
from featurepipe.stores import Pending


def check_images(X: Any) -> Sequence[Any]:
    """X itself, if it is a non-empty sequence of things that can be images."""
    if isinstance(X, (str, bytes, PathLike, Image.Image)):
        raise ValueError(f"X is a list of images; wrap the single {type(X).__name__} in a list")
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OU" and (X.dtype != np.uint8 or X.ndim not in (3, 4)):
        raise ValueError(f"an array of images is uint8 of shape (n, H, W[, 3]); got {X.dtype} {X.shape}")
    if not hasattr(X, "__len__") or hasattr(X, "toarray"):  # a sparse matrix has no length either
        raise ValueError(f"X is a list of images; got {type(X).__name__}")
    if not len(X):
        raise ValueError("X holds 0 samples; at least 1 image is needed")
    return X.tolist() if isinstance(X, np.ndarray) and X.dtype.kind in "OU" else X


def pending(item: Any, index: int, transform: backbones.Transform) -> Pending:
    """One image with the digest of its content; files keep the digest of their bytes, so that stores agree."""
    try:
        if isinstance(item, (str, PathLike)):
            return Pending(sha256_file(item), Path(item))
        image = item if isinstance(item, Image.Image) else from_array(item)
        image = convert(image, transform.input_size[0])
    except (OSError, ImageError) as error:
        raise ImageError(f"image {index} ({item if isinstance(item, (str, PathLike)) else ''}): {error}") from error
    header = f"{image.mode} {image.width}x{image.height}\n".encode()
    return Pending(sha256_bytes(header + image.tobytes()), image)


def check_labelled(X: Any, y: Any) -> np.ndarray:
    """Labels (n,) of as many images, if a classifier can learn from them."""
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    check_consistent_length(check_images(X), y)
    return y


def file_keys(X: Sequence[Any]) -> np.ndarray:
    """What a model file remembers of those images that are files, uint64."""
    return models.digest_keys([sha256_file(item) for item in X if isinstance(item, (str, PathLike))])


def image_tags(tags: Any) -> Any:
    """Input is images, or text that names their files; no 2-D array."""
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags
