"""Networks that another library runs, on the CPU: `ForeignNetwork`, and what they are fed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from featurepipe.backbones.extractors import failures_named
from featurepipe.backbones.makers.maker import Request
from featurepipe.backbones.makers.modules import IMAGENET
from featurepipe.backbones.specs import make_spec
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError
from featurepipe.images import ImageTransform
from featurepipe.surroundings import guarded

TRIALS = 2  # images; with one alone a lost batch dimension would not show
CHANNELS = ("rgb", "bgr")
ASSUMED = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # of a transform, where nobody says it


@dataclass(frozen=True)
class Feed:
    """How a network wants its images.

    Attributes
    ----------
    last : bool
        The channels are the last axis instead of the second.
    dtype : dtype
        Type of its input's numbers; integers get the pixels themselves.
    batch : int or None
        The only number of images that it takes at once; None is any.
    reversed : bool
        Blue comes first.
    """

    last: bool
    dtype: np.dtype[Any]
    batch: int | None = None
    reversed: bool = False

    def batches(self, pixels: np.ndarray, transform: ImageTransform) -> list[np.ndarray]:
        """uint8 (B, C, H, W) → inputs of as many images as it takes; the last one may be filled up with zeros."""
        x = pixels.astype(np.float32)
        if self.dtype.kind == "f":
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (transform.mean, transform.std))
            x = (x - 255 * mean) / (255 * std)
        x = x[:, ::-1] if self.reversed else x
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1) if self.last else x, self.dtype)
        if self.batch is None:
            return [x]
        filled = np.concatenate([x, np.zeros((-len(x) % self.batch, *x.shape[1:]), x.dtype)])
        return list(filled.reshape(-1, self.batch, *x.shape[1:]))


@dataclass(frozen=True)
class ForeignNetwork:
    """A frozen network that another library runs: it has no torch module, so it is neither tuned nor stored in a file.

    Attributes
    ----------
    name, spec, source, transform, width, notes
        As of a `featurepipe.backbones.Backbone`.
    run : callable
        One input → what the network gives: (B, D), or a map of features, of which the mean is taken.
    feed : Feed
    """

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    feed: Feed
    spec: dict[str, Any]
    source: dict[str, Any]
    transform: ImageTransform
    width: int
    notes: tuple[str, ...] = ()
    device: str = "cpu"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)

    @property
    def members(self) -> tuple[ForeignNetwork]:
        """Itself."""
        return (self,)

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32."""
        with failures_named(self, pixels):
            if not len(pixels):
                return np.zeros((0, self.width), np.float32)
            found = [self.run(batch) for batch in self.feed.batches(pixels, self.transform)]
            return pooled(np.concatenate(found)[: len(pixels)], self.feed)


def pooled(found: np.ndarray, feed: Feed) -> np.ndarray:
    """(B, D), or a map of features → (B, D) float32."""
    found = found.astype(np.float32, copy=False)
    if found.ndim != 4:
        return found
    return found.mean((1, 2) if feed.last else (2, 3))


def feed_of(shape: Sequence[int | None], dtype: np.dtype[Any], name: str, *, last: bool) -> tuple[Feed, dict[str, Any]]:
    """What an input of that shape is fed with, and the size that it says images have, if it does.

    Parameters
    ----------
    shape : sequence of int or None
        None is an axis of any length.
    dtype : dtype
    name : str
        The backbone's.
    last : bool
        Where the channels are if the shape does not say.

    Raises
    ------
    BackboneError
        It does not take images.
    """
    if len(shape) != 4 or dtype.kind not in "fu":
        raise BackboneError(f"{name} does not take images: its input is {dtype} of shape {_shown(shape)}, not 4 axes")
    at_second, at_last = shape[1] in (1, 3), shape[3] in (1, 3)
    last = at_last if at_second != at_last else last
    batch, *rest = shape
    height, width, channels = rest if last else (*rest[1:], rest[0])
    if channels not in (1, 3, None):
        raise BackboneError(f"{name} takes {channels} channels; images give 1 or 3")
    size = None if height is None or width is None else (channels or 3, height, width)
    return Feed(last, dtype, batch), {} if size is None else {"input_size": size}


def resolve_transform(
    own: Mapping[str, Any], feed: Feed, given: Mapping[str, Any], name: str
) -> tuple[ImageTransform, list[str]]:
    """The transform of a network that comes without one, and what is taken for granted; the caller's values go last.

    Parameters
    ----------
    own : mapping
        What is known of it.
    feed : Feed
    given : mapping
        The caller's.
    name : str

    Raises
    ------
    BackboneError
        Its size is not known.
    """
    if "input_size" not in {**own, **given}:
        raise BackboneError(
            f"{name} takes images of any size; give the one that it was trained with: --input-size 3 224 224 "
            "(transform={'input_size': (3, 224, 224)} in Python)"
        )
    pixels = {"mean": 0.0, "std": 1 / 255} if feed.dtype.kind == "u" else {}
    known = {**own, **pixels, **given}
    values = {**asdict(IMAGENET), **known}
    if values["input_size"][0] == 1:  # greyscale: the mean of the colours'
        values |= {key: float(np.mean(values[key])) for key in ("mean", "std")}
    assumed = [key for key in ASSUMED if key not in known]
    text = f"{name} comes without a transform; it gets ImageNet's {', '.join(assumed)}: give those it was trained with"
    return ImageTransform.from_mapping(values), [text] if assumed else []


def finish(
    run: Callable[[np.ndarray], np.ndarray],
    feed: Feed,
    transform: ImageTransform,
    request: Request,
    *,
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    weights: str,
    place: str,
    notes: Sequence[str] = (),
) -> ForeignNetwork:
    """Try a network on images, and make a backbone of it.

    Raises
    ------
    BackboneError
        It fails, or gives anything but a vector or a map of finite numbers for each image, always the same.
    """
    if request.device not in ("auto", "cpu"):
        raise BackboneError(f"{name} runs on the CPU alone; leave out --device, or give cpu")
    order = request.arguments.get("channels", "rgb")
    if order not in CHANNELS:
        raise BackboneError(f"{name}: channels is {' or '.join(CHANNELS)}, not {order!r}")
    feed = replace(feed, reversed=order == "bgr")
    width = _tried(run, feed, transform, name)
    spec = make_spec(
        architecture, {**arguments, "channels": order}, weights, transform, request.layer, request.pooling, "fp32"
    )
    source = {"name": place, "weights": None, "random_seed": None}
    told = tuple(f"note: {text}" for text in notes)
    return ForeignNetwork(name, run, feed, spec, source, transform, width, told)


def _tried(run: Callable[[np.ndarray], np.ndarray], feed: Feed, transform: ImageTransform, name: str) -> int:
    """The length of one vector."""
    first, *_ = feed.batches(transform.trial(TRIALS), transform)
    try:
        found, again = run(first), run(first)
    except Exception as error:  # whatever a library says to input that does not fit
        size = "×".join(map(str, transform.input_size))
        raise BackboneError(f"{name} fails on {size} input: {first_line(error)}; check --input-size") from error
    if found.ndim not in (2, 4) or len(found) != len(first) or found.dtype.kind != "f":
        raise BackboneError(
            f"{name} gives {found.dtype} of shape {found.shape} for {len(first)} images, not one vector for each; "
            "choose another of its tensors with --layer"
        )
    if not np.isfinite(found).all():
        raise BackboneError(f"{name} gives NaN or infinite values for trial images; check its mean and std")
    if not np.allclose(found, again, rtol=1e-3, atol=1e-5):
        raise BackboneError(f"{name} gives different vectors for the same images; export it in evaluation mode")
    return pooled(found, feed).shape[1]


def _shown(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if n is None else str(n) for n in shape)})"
