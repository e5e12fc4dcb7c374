"""Creating backbones by name, weights and settings, and again from what a store or model file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones.descriptors import ColorHistogram, Descriptor, Hog, Pixels
from featurepipe.backbones.networks import (
    BUNDLED,
    PRECISIONS,
    embed,
    freeze,
    is_out_of_memory,
    make_forward,
    make_network,
    probe_width,
    quiet,
    repository_arguments,
    set_pooling,
)
from featurepipe.backbones.precisions import AGREEMENT, agreement, choose_precision, sample_pixels
from featurepipe.backbones.sift import SIFT, Sift
from featurepipe.backbones.specs import DECODERS, PENULTIMATE, Transform, check_same, make_spec
from featurepipe.backbones.weights import first_line, load_weights, read_weights
from featurepipe.digests import canonical_json, sha256_json, sha256_state_dict
from featurepipe.errors import BackboneError, OutOfMemory

if TYPE_CHECKING:
    import torch

DESCRIPTORS: dict[str, type[Descriptor]] = {kind.architecture: kind for kind in (Pixels, Hog, ColorHistogram, Sift)}
BUNDLED_WEIGHTS = Path(__file__).parents[1] / "bundled" / "backbone.safetensors"


@dataclass(frozen=True)
class Backbone:
    """A frozen network that turns pixels into embeddings.

    Made by `create`; do not build it by hand.

    Attributes
    ----------
    name : str
        What to call it: timm name, with the seed where the weights are random.
    module : torch.nn.Module
        The timm model without classifier, in eval mode, no parameter requiring grad.
    spec : dict
        Everything that decides a vector (JSON).
    source : dict
        How to make it again: ``name``, ``weights`` (path or None), ``random_seed``.
    transform : Transform
        From bytes to pixels to the network's input.
    width : int
        Length of one embedding.
    device : str
        Where it runs.
    compiled : callable or None
        What `compile` made of its forward pass.
    batch_size : int or None
        The number of images that `compiled` takes.
    """

    name: str
    module: torch.nn.Module
    spec: dict[str, Any]
    source: dict[str, Any]
    transform: Transform
    width: int
    device: str
    compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
    batch_size: int | None = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec's canonical JSON."""
        return sha256_json(self.spec)

    @cached_property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """uint8 (B, C, H, W) on the device → float32 (B, width)."""
        layer, pooling, precision = (self.spec[key] for key in ("layer", "pooling", "precision"))
        return make_forward(self.module, self.transform, layer, pooling, precision)

    def adapted(self, *, precision: str | None = None, decoder: str | None = None) -> Backbone:
        """The same network under another precision or decoder, and thus another fingerprint."""
        transform = replace(self.transform, decoder=decoder or self.transform.decoder)
        changed = {"transform": asdict(transform), "precision": precision or self.spec["precision"]}
        return replace(self, transform=transform, spec=_plain({**self.spec, **changed}), compiled=None, batch_size=None)

    def compile(self, batch_size: int) -> Backbone:
        """The same backbone with its forward pass compiled for batches of one size, to which others are filled up.

        It takes seconds to minutes. The vectors stay the same but for rounding, which is checked here.

        Raises
        ------
        BackboneError
            The compiler is missing or fails, or gives vectors that are not the same.
        """
        import torch

        options = {"freezing": True} if self.device.startswith("cpu") else None
        compiled = torch.compile(self.forward, dynamic=False, options=options)
        made = replace(self, compiled=compiled, batch_size=batch_size)
        pixels = sample_pixels(batch_size, self.transform)
        try:
            with quiet("torch"):  # it talks of a missing CUDA toolkit, say, where none is wanted
                found = made.embed(pixels)
        except Exception as error:  # compilers fail in more ways than there are exceptions for
            raise BackboneError(f"{self.name} cannot be compiled: {first_line(error)}") from error
        if agreement(found, self.embed(pixels)) < AGREEMENT:
            raise BackboneError(f"{self.name}, compiled, gives other vectors")
        return made

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Embed a batch of images.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (B, C, H, W)
            Decoded by `featurepipe.images` with this backbone's transform.

        Returns
        -------
        ndarray of float32, shape (B, width)
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.transform.input_size:
            size = self.transform.input_size
            raise BackboneError(f"pixels are uint8 of shape (B, {size}); got {pixels.dtype} {pixels.shape}")
        try:
            if self.compiled is None or len(pixels) > self.batch_size:
                return embed(self.forward, self.module, pixels, self.spec["precision"])
            missing = self.batch_size - len(pixels)  # another size would be compiled anew
            filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)]) if missing else pixels
            return embed(self.compiled, self.module, filled, self.spec["precision"])[: len(pixels)]
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"{self.name} has no memory on {self.device} for {len(pixels)} images at once; "
                    "try a smaller --batch-size, fewer --workers, or another --device"
                ) from error
            raise BackboneError(  # an operation that the device lacks
                f"{self.name} failed on {len(pixels)} images on {self.device}: {first_line(error)}; try --device cpu"
            ) from error


def create(
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    random_weights: bool = False,
    seed: int = 0,
    layer: str = PENULTIMATE,
    pooling: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    transform: Mapping[str, Any] | None = None,
) -> Backbone | Descriptor:
    """Make a frozen backbone.

    Parameters
    ----------
    name : str, optional
        Any timm name (``resnet50.a1_in1k``, ``hf-hub:timm/…``), ``'bundled'`` (the default: the small network
        inside the package), or one that is no network: ``'pixels'`` (raw pixels), ``'hog'``, ``'color-histogram'``,
        ``'sift'`` (a bag of visual words, whose codebook `weights` gives).
    weights : path, optional
        safetensors file, or a torch file that loads with ``weights_only``. Classifier keys are dropped; all others
        must fit. Transform values in a safetensors file's metadata (``mean``, ``std``, ``interpolation``,
        ``crop_pct``, ``crop_mode``, ``input_size``) replace timm's.
    arguments : mapping, optional
        Passed to ``timm.create_model``: what shapes the architecture, such as ``pad_type='same'``.
    random_weights : bool
        An untrained network, for baselines: initialised under `seed`.
    layer : str
        ``'penultimate'`` (timm's pre-logits) or ``'stageK'``, K from 1: the pooled output of timm's K-th feature
        stage (for a ViT: block).
    pooling : str, optional
        timm's global pooling (``avg``, ``max``, ``token``, …); None is the model's own. A stage takes avg or max.
    precision : {'auto', 'fp32', 'bf16', 'fp16'}
        ``auto`` is bf16 where the device computes in it natively and this network's vectors stay the same (cosine
        with fp32 at least 0.999, tried on a few images), else fp32.
    device : str
        ``auto`` (cuda, else mps, else cpu) or a torch device.
    transform : mapping, optional
        Overrides, by `Transform` field; None values are ignored. The decoder is ``torchvision`` unless given here.

    Raises
    ------
    BackboneError
        An unknown name (the nearest ones are listed), or weights, arguments or transform that do not fit.
    WeightsUnavailable
        Weights that cannot be downloaded, or a file that does not exist.

    Examples
    --------
    >>> backbone = create("bundled")
    >>> backbone.embed(np.zeros((2, *backbone.transform.input_size), np.uint8)).shape == (2, backbone.width)
    True
    """
    if name in DESCRIPTORS:
        chosen = (arguments, random_weights, pooling, _chosen(transform))
        if any(chosen) or layer != PENULTIMATE or precision not in ("auto", "fp32"):
            raise BackboneError(f"{name} takes no arguments, random weights, layer, pooling, precision or transform")
        return _descriptor(name, weights)
    name = name or BUNDLED
    given = _chosen(transform)
    if unknown := given.keys() - {field.name for field in fields(Transform)}:
        known = ", ".join(field.name for field in fields(Transform))
        raise BackboneError(f"a transform has no {unknown.pop()!r}; it has {known}")
    arguments = _plain(arguments or {})
    if taken := {"pretrained", "num_classes", "checkpoint_path"} & arguments.keys():
        raise BackboneError(f"backbone argument {taken.pop()!r} is set by featurepipe; leave it out")
    if random_weights and weights is not None:
        raise BackboneError("random weights and a weights file exclude each other; give one of them")
    file = Path(weights) if weights is not None else BUNDLED_WEIGHTS if name == BUNDLED else None
    state, config = read_weights(file) if file is not None else (None, {})
    if name == BUNDLED and "architecture" not in config:
        raise BackboneError(f"{file} does not say its architecture; give it as the backbone's name")
    timm_name = config["architecture"] if name == BUNDLED else name
    arguments = {**config.get("arguments", {}), **arguments} if name == BUNDLED else arguments
    if random_weights:
        state = None
    module = make_network(timm_name, arguments, pretrained=state is None and not random_weights, seed=seed)
    if ":" in timm_name:  # what the repository's config adds shapes the network too, so the spec must say it
        arguments = {**_plain(repository_arguments(timm_name)), **arguments}
    if state is not None:
        load_weights(module, state, file, timm_name)
    if pooling is not None and layer == PENULTIMATE:
        set_pooling(module, pooling, name)
    resolved = _resolve_transform(module, config.get("transform", {}), arguments, given)
    chosen = resolve_device(device)
    module = freeze(module).to(chosen)
    if precision not in ("auto", *PRECISIONS):
        raise BackboneError(f"precision {precision!r} is unknown; use auto, {', '.join(PRECISIONS)}")
    width = probe_width(module, resolved, layer, pooling, "fp32" if precision == "auto" else precision, name)
    if precision == "auto":
        precision = choose_precision(module, resolved, layer, pooling)
    architecture = module.pretrained_cfg.get("architecture", timm_name)
    weights_digest = sha256_state_dict(module.state_dict())
    seed_used = seed if random_weights else None
    return Backbone(
        name=name if seed_used is None else f"{name} (random weights, seed {seed})",
        module=module,
        spec=make_spec(architecture, arguments, weights_digest, resolved, layer, pooling, precision),
        source={
            "name": name,
            "weights": str(Path(weights).resolve()) if weights is not None else None,
            "random_seed": seed_used,
        },
        transform=resolved,
        width=width,
        device=chosen,
    )


def recreate(
    spec: Mapping[str, Any], source: Mapping[str, Any], *, weights: str | Path | None = None, device: str = "auto"
) -> Backbone | Descriptor:
    """Make the backbone that a store or a model file describes, and check that it is the same.

    Raises
    ------
    FingerprintMismatch
        What was made differs from `spec`: the message names the fields.
    """
    if spec["architecture"] in DESCRIPTORS:
        descriptor = _descriptor(spec["architecture"], weights or source["weights"])
        transform = replace(descriptor.transform, decoder=spec["transform"]["decoder"])
        descriptor = replace(descriptor, transform=transform)
        check_same(descriptor.spec, spec)
        return descriptor
    file = weights or source["weights"]
    random_seed = None if file else source["random_seed"]
    made = create(
        spec["architecture"] if file else source["name"],
        weights=file,
        arguments=spec["arguments"],
        random_weights=random_seed is not None,
        seed=random_seed or 0,
        **_settings(spec),
        device=device,
    )
    check_same(made.spec, spec)
    return made


def twin(spec: Mapping[str, Any], name: str, *, seed: int = 0, device: str = "auto") -> Backbone:
    """The randomly initialised copy of a backbone: same architecture, arguments, transform and layer.

    Parameters
    ----------
    spec : mapping
        Of the trained backbone; a descriptor has no twin.
    name : str
        What to call it; ``(random weights, seed …)`` is added.
    """
    made = create(
        spec["architecture"],
        arguments=spec["arguments"],
        random_weights=True,
        seed=seed,
        **_settings(spec),
        device=device,
    )
    return replace(made, name=f"{name} (random weights, seed {seed})")


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `create` that reproduce a spec's transform, layer, pooling and precision."""
    return {"transform": spec["transform"], **{key: spec[key] for key in ("layer", "pooling", "precision")}}


def names(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that `create` takes, filtered by a shell pattern: the bundled one, descriptors, and timm's."""
    import fnmatch

    import timm

    own = [name for name in (BUNDLED, *DESCRIPTORS) if fnmatch.fnmatch(name, pattern)]
    return own + timm.list_models(pattern, pretrained=pretrained)


def _descriptor(name: str, weights: str | Path | None) -> Descriptor:
    """A descriptor by name; only a codebook is read from a file."""
    if name == SIFT:
        return Sift.load(weights)
    if weights is not None:
        raise BackboneError(f"{name} has no weights; leave {weights} out")
    return DESCRIPTORS[name]()


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda, mps or cpu; anything else must exist here."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"device {device!r} cannot be used here ({first_line(error)}); try auto") from error
    return device


def _chosen(transform: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of the transform's values is the caller's own choice."""
    given = {key: value for key, value in (transform or {}).items() if value is not None}
    return {key: value for key, value in given.items() if (key, value) != ("decoder", "auto")}


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they will be read back from JSON, so that a backbone made again gets the very same."""
    try:
        return json.loads(canonical_json(dict(arguments)))
    except (TypeError, ValueError) as error:
        raise BackboneError(f"backbone arguments are numbers, text and lists of them; {error}") from error


def _resolve_transform(
    module: torch.nn.Module, of_file: Mapping[str, Any], arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> Transform:
    """Values of timm, under those of the weights file, of the network's shape, and of the caller."""
    import timm.data

    config = {**timm.data.resolve_model_data_config(module), **of_file}
    channels, *size = np.atleast_1d(config["input_size"]).tolist()
    if "img_size" in arguments:
        size = np.broadcast_to(arguments["img_size"], 2).tolist()
    if arguments.get("in_chans", channels) != channels:
        channels = arguments["in_chans"]
        for key in ("mean", "std"):  # greyscale: the mean of the colours'
            config[key] = fmean(np.atleast_1d(config[key]))
    decoder = {"decoder": DECODERS[0]}  # whatever made the vectors of the file's own model
    return Transform.from_mapping({**config, "input_size": (channels, *size), **decoder, **given})
