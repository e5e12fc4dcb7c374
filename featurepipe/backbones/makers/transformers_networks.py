"""Image models of transformers as a family: ``transformers:FOLDER`` or ``transformers:NAME`` of a hub.

The transform is that of the model's own image processor, with which it is compared when the backbone is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.assembly import assemble
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import plain
from featurepipe.backbones.towers import TextTower
from featurepipe.backbones.trust import ALLOW, GIVE, check_input, check_plain, check_room
from featurepipe.backbones.weights import check_finite, first_line, load_weights, read_weights
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable
from featurepipe.images import DEFAULT_DECODER, ImageTransform

if TYPE_CHECKING:
    from featurepipe.backbones.tokens import Tokens

WORDS = {
    "pooled": "the model's own pooled output",
    "cls": "its class token",
    "mean": "the mean over its patches or places",
}
# Of a model's configuration: what decides no vector, or only this machine's way to compute it.
ASIDE = (
    *("transformers_version", "dtype", "torch_dtype", "architectures", "name_or_path", "problem_type"),
    *("id2label", "label2id", "auto_map"),
)
TRIED = ((480, 720), (720, 480))  # sizes of pictures on which two transforms are compared
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
SAY = "say what it does with --input-size, --mean, --std, --interpolation, --crop-pct and --crop-mode"
PAIRED = ("siglip", "siglip2")  # kinds of models whose pooled output lies in the space of their texts
LONGEST = 64  # tokens that SigLIP's texts are padded to
MEAN_LEVELS = 2.0  # of 255, by which their pixels may differ: rounding, and a crop one pixel off


class TransformersNetworks(Maker):
    """What ``AutoModel`` makes of a folder or of a name, if it takes images."""

    family = "transformers"

    def knows(self, name: Any) -> bool:
        """None without the family in front: a name of a hub could be anything."""
        return False

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`; with `arguments`, a model's configuration, the name is that of its kind."""
        from featurepipe.backbones.plain import check_output

        called = f"transformers:{name}"
        described = ["weights", "random_weights", "arguments"] if request.arguments else []
        request.allow(called, "pooling", "precision", "transform", *described)
        if request.arguments:
            made, transform, source = _described(name, called, request)
        else:
            made, transform, source = _loaded(name, called, request)
        check_finite(made, called)
        check_output(made, transform, called)
        seed, config = source["random_seed"], cast(Any, made.network).config
        return assemble(
            made,
            transform,
            replace(request, pooling=made.pooling),
            name=called if seed is None else f"{called} (random weights, seed {seed})",
            architecture=f"transformers:{config.model_type}",
            arguments=request.arguments or _configuration(config),
            source=source,
            notes=[f"{called}: the embedding is {WORDS[made.pooling]}"] if request.pooling is None else [],
        )

    def pair(self, name: Any, request: Request) -> tuple[Backbone, TextTower]:
        """The image tower of a SigLIP model with its own pooling, and its text tower; see `Maker.pair`."""
        called = f"transformers:{name}"
        if request.arguments or request.pooling not in (None, "pooled"):
            raise BackboneError(f"{called}: texts lie in the space of the model's own pooled output; give no other")
        network, encode = _texts(name, called, request)
        images = self.create(name, replace(request, pooling="pooled"))
        return images, TextTower(encode, float(network.logit_scale.detach().exp()))

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; from a file of weights, or without any, the spec alone makes the network again."""
        how = {key: spec[key] for key in ("transform", "pooling", "precision")}
        source, weights = origin.source, origin.weights
        folder = str(weights or source["name"].removeprefix("transformers:"))
        if source["name"] != spec["architecture"] and not os.path.isfile(folder):
            if not (origin.trust or weights):
                raise BackboneError(f"{origin.who} wants transformers to read {folder!a}; {ALLOW}, or {GIVE}")
            return {"name": f"transformers:{folder}", **how}
        if not origin.trust:
            _check_described(spec, weights, origin.who)
        seed = None if weights else source["random_seed"]
        drawn = {"random_weights": seed is not None, "seed": seed or 0}
        return {"name": spec["architecture"], "weights": weights, "arguments": spec["arguments"], **drawn, **how}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are folders, or on a hub."""
        return []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path] | None:
        """All that is in a folder; of a hub's name it is not known."""
        if weights is not None or not os.path.isdir(name):
            return None
        return sorted(path for path in Path(name).rglob("*") if path.is_file())

    def fetches(self, name: Any) -> bool:
        """Whether it is not a folder here."""
        return not os.path.isdir(name)


def _loaded(name: str, called: str, request: Request) -> tuple[Tokens, ImageTransform, dict[str, Any]]:
    """A model with the weights of its folder or hub, its transform, and where it comes from."""
    import torch

    transformers = require_transformers()
    here = {"local_files_only": not request.download or os.path.isdir(name), "trust_remote_code": False}
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(name, **here)
            config = getattr(config, "vision_config", None) or config  # the image tower of a pair
            if "/" in str(config._attn_implementation):
                raise ValueError(f"its attention is code of a hub ({config._attn_implementation})")
            processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", **here)
            network, report = transformers.AutoModel.from_pretrained(
                name, config=config, dtype=torch.float32, output_loading_info=True, **here
            )
        except Exception as error:  # a folder can be broken in more ways than its readers have exceptions for
            raise _refusal(name, error) from error
        if network.main_input_name != "pixel_values":
            raise BackboneError(f"{called} is not a model of images: it takes {network.main_input_name}")
        transform = _transform(processor, called, request.transform)
    lacking = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    if lacking:
        raise BackboneError(
            f"{called} lacks {len(lacking)} weights of its image model ({min(lacking)}, …); they would be random. "
            "Save the model that was trained, with save_pretrained"
        )
    is_trained = not report["missing_keys"]
    network = _pooled(network, transform, request.pooling, called, is_trained)
    place = f"transformers:{os.path.abspath(name) if os.path.isdir(name) else name}"
    return network, transform, {"name": place, "weights": None, "random_seed": None}


def _texts(name: str, called: str, request: Request) -> tuple[Any, Callable[[Sequence[str]], np.ndarray]]:
    """A model with both towers, and prompts → vectors (n, D) by its text tower."""
    import torch

    transformers = require_transformers()
    here = {"local_files_only": not request.download or os.path.isdir(name), "trust_remote_code": False}
    with _quiet(transformers):
        try:
            kind = transformers.AutoConfig.from_pretrained(name, **here).model_type
            if kind not in PAIRED:
                raise BackboneError(
                    f"{called} is a {kind} model, and text towers of transformers are taken from "
                    f"{' and '.join(PAIRED)} alone; for CLIP use open_clip:ARCH/TAG"
                )
            network = transformers.AutoModel.from_pretrained(name, dtype=torch.float32, **here).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **here)
        except BackboneError:
            raise
        except Exception as error:  # as in `_loaded`
            raise _refusal(name, error) from error
    length = min(LONGEST, network.config.text_config.max_position_embeddings)

    def encode(prompts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            found = network.get_text_features(input_ids=tokens["input_ids"])
        return getattr(found, "pooler_output", found).float().numpy()

    return network, encode


def _described(model_type: str, called: str, request: Request) -> tuple[Tokens, ImageTransform, dict[str, Any]]:
    """A model of a configuration alone, with weights of a file or random ones."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(request.seed)
        network = _of_configuration(model_type, request.arguments, called)
    transform = ImageTransform.from_mapping(request.transform)
    made = _pooled(network, transform, request.pooling, called, is_trained=True)
    if request.weights is not None:
        load_weights(made, read_weights(Path(request.weights))[0], called)
    weights = None if request.weights is None else str(Path(request.weights).resolve())
    seed = None if request.weights is not None else request.seed
    return made, transform, {"name": f"transformers:{model_type}", "weights": weights, "random_seed": seed}


def _of_configuration(model_type: str, values: Mapping[str, Any], called: str) -> Any:
    transformers = require_transformers()
    try:
        config = transformers.AutoConfig.for_model(**{**values, "model_type": model_type})
        return transformers.AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise BackboneError(f"{called} cannot be made of its configuration: {first_line(error)}") from error


def _check_described(spec: Mapping[str, Any], weights: Any, who: str) -> None:
    """Refuse a description of a model that asks for more than a file may."""
    from featurepipe.backbones.tokens import Tokens

    transformers = require_transformers()
    model_type, values = spec["architecture"].removeprefix("transformers:"), spec["arguments"]
    try:
        default = transformers.AutoConfig.for_model(model_type)
    except ValueError as error:
        raise BackboneError(f"{who} wants a model of type {model_type!a}, which transformers has not") from error
    check_plain(values, {key for key in default.to_dict() if key[0] != "_" and "backbone" not in key}, who)
    room = Path(weights).stat().st_size if weights and os.path.isfile(weights) else 0
    size = spec["transform"]["input_size"]
    check_input(size, who)
    check_room(lambda: Tokens(_of_configuration(model_type, values, who), "mean"), size, room, who)


def _pooled(network: Any, transform: ImageTransform, wanted: str | None, called: str, is_trained: bool) -> Tokens:
    """A model with the pooling that is wanted, or its own; a pooler without trained weights counts as none."""
    from featurepipe.backbones.tokens import Tokens, poolings_of

    try:
        offered = poolings_of(network, transform.input_size)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        size = "×".join(map(str, transform.input_size))
        raise BackboneError(f"{called} fails on {size} input: {first_line(error)}; check --input-size") from error
    offered = [one for one in offered if is_trained or one != "pooled"]
    if wanted is not None and wanted not in offered:
        lost = "; its pooled output has no trained weights" if wanted == "pooled" and not is_trained else ""
        raise BackboneError(f"{called} cannot be pooled by {wanted!r}; choose {', '.join(offered)}{lost}")
    return Tokens(network, wanted or offered[0])


def _configuration(config: Any) -> dict[str, Any]:
    """What of a configuration shapes the model."""
    values = config.to_diff_dict()
    return plain({key: value for key, value in values.items() if key[0] != "_" and key not in ASIDE})


def _refusal(name: str, error: Exception) -> BackboneError:
    """What to say where a folder or name gives no model."""
    said = first_line(error)
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "config.json")):
            return BackboneError(f"{name} is not a folder of transformers: it has no config.json")
        return BackboneError(
            f"{name} cannot be loaded by transformers: {said}; a folder has config.json, preprocessor_config.json and "
            "model.safetensors, as save_pretrained of the model and of its image processor write them"
        )
    return WeightsUnavailable(
        f"transformers:{name} is neither a folder here nor a model that can be fetched ({said}); "
        "give the folder that save_pretrained wrote"
    )


def _transform(processor: Any, called: str, given: Mapping[str, Any]) -> ImageTransform:
    """The transform of an image processor, compared with it; values of the caller's own go last.

    Raises
    ------
    BackboneError
        The processor does something else.
    """
    chosen = {**given, "decoder": given.get("decoder", DEFAULT_DECODER)}
    if chosen.keys() >= {field.name for field in fields(ImageTransform)}:
        return ImageTransform.from_mapping(chosen)
    values = {**_values(processor, called), "decoder": DEFAULT_DECODER}
    transform = ImageTransform.from_mapping(values)
    if not {*given} - {"decoder"}:
        _check_pixels(processor, transform, called)
    return ImageTransform.from_mapping({**values, **chosen})


def _values(processor: Any, called: str) -> dict[str, Any]:
    """What an image processor says, in timm's words."""
    size = _sides(processor.size) if getattr(processor, "do_resize", False) else None
    if size is None:
        raise BackboneError(f"the image processor of {called} does not resize to one size; {SAY}")
    squash, resized = len(size) == 2, (size[0], size[-1])
    crop = _sides(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    share = getattr(processor, "crop_pct", None)
    if share is not None and not squash and crop is None:  # ConvNeXT's, which does not crop at 384 and above
        crop, squash = resized, resized[0] >= 384
        resized = resized if squash else (int(resized[0] / share),) * 2
    height, width = (crop[0], crop[-1]) if crop else resized
    if not squash and height != width:
        raise BackboneError(f"the image processor of {called} crops to {height}×{width}, which is not square; {SAY}")
    top = 255.0 * processor.rescale_factor if processor.do_rescale else 255.0  # what white becomes
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    return {
        "input_size": (3, height, width),
        "interpolation": INTERPOLATIONS[int(processor.resample)],
        "mean": [value / top for value in np.broadcast_to(mean, 3).tolist()],
        "std": [value / top for value in np.broadcast_to(std, 3).tolist()],
        "crop_pct": crop_share(height, resized[0]),
        "crop_mode": "squash" if squash else "center",
    }


def _sides(size: Any) -> tuple[int, ...] | None:
    """Height and width, or the short side alone; None where another rule decides."""
    size, keys = size or {}, ("shortest_edge", "longest_edge", "height", "width")
    known = {key: int(size[key]) for key in keys if size.get(key)}
    wanted = ("shortest_edge",) if len(known) == 1 else ("height", "width")
    return tuple(known[key] for key in wanted) if known.keys() == {*wanted} else None


def crop_share(size: int, resized: int) -> float:
    """The share of a side that gives back the side that was resized, which is rounded down.

    Examples
    --------
    >>> crop_share(224, 256)
    0.875
    """
    share = size / resized
    return share if int(size / share) == resized else size / (resized + 0.5)


def _check_pixels(processor: Any, transform: ImageTransform, called: str) -> None:
    """Hold our pixels to those of the processor itself."""
    mean, std = (np.array(values)[:, None, None] for values in (transform.mean, transform.std))
    (coarse,) = replace(transform, input_size=(3, 6, 6)).trial(1).transpose(0, 2, 3, 1)  # (6, 6, C)
    for height, width in TRIED:
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        found = processor(picture, return_tensors="np").get("pixel_values")
        ours = replace(transform, decoder="pillow").decode(picture)
        if found is None or found.shape != (1, *transform.input_size):
            raise BackboneError(f"the image processor of {called} gives no {transform.input_size} pixels; {SAY}")
        levels = float(np.abs((found[0] * std + mean) * 255 - ours).mean())
        if levels > MEAN_LEVELS:
            raise BackboneError(
                f"the image processor of {called} does more than resize, crop and normalise: its pixels differ from "
                f"featurepipe's by {levels:.1f} of 255 in the mean; {SAY}"
            )


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Within, transformers neither reports what it loads nor draws bars: what matters is said in one line."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def require_transformers() -> ModuleType:
    """The library.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyMissing("transformers:… needs transformers: pip install 'featurepipe[transformers]'") from error
    return transformers
