"""Weights files: read without running code, and loaded strictly."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe.backbones.specs import SPEC_FORMAT
from featurepipe.errors import BackboneError, FormatTooNew, WeightsUnavailable

if TYPE_CHECKING:
    import torch

CARRIED = "backbone."  # what the names of a backbone's tensors begin with in a model file


def is_model_name(name: str | PathLike[str] | None) -> bool:
    """Whether a backbone is called by the name of a model file; no timm name ends so."""
    return name is not None and str(name).endswith(".safetensors")


def carried_backbone(path: str | PathLike[str]) -> dict[str, Any]:
    """What a model file says of the backbone that it carries: ``name, fingerprint, spec, source``.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        It is no model file, or carries no backbone.
    FormatTooNew
        A later featurepipe described the backbone.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise WeightsUnavailable(f"model file {path} does not exist; give its place, or a backbone's name")
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get("featurepipe", "{}"))
            carries = any(key.startswith(CARRIED) for key in file.keys())  # noqa: SIM118  # not a dict
        found = header.get("backbone")
        known = None if found is None else (found["name"], found["source"]["name"], found["spec"]["weights"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(f"{path} cannot be read as a model file: {first_line(error)}") from error
    if known is None:
        raise BackboneError(
            f"{path} is not a featurepipe model file; for a file of mere weights also name the architecture: "
            "-b NAME --weights FILE"
        )
    if not carries:
        raise BackboneError(
            f"{path} carries no backbone, only a head for {known[0]}; use the backbone's own name, "
            "or put it into the file with: featurepipe probe --include-backbone"
        )
    if found["spec"]["format"] > SPEC_FORMAT:
        raise FormatTooNew(f"{path} has a backbone of format {found['spec']['format']}; upgrade featurepipe")
    return found


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a weights file, and what it says of itself: ``architecture, arguments, transform``."""
    import timm.models
    import torch
    from safetensors import safe_open

    if not path.is_file():
        raise WeightsUnavailable(f"weights file {path} does not exist; give its place with --weights")
    config: dict[str, Any] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                config = _file_config(file.metadata() or {})
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        else:
            state = timm.models.load_state_dict(str(path), weights_only=True)
        state = {str(key): value for key, value in state.items()}
    except Exception as error:  # a file can be broken in more ways than its readers have exceptions for
        raise BackboneError(
            f"{path} cannot be read as weights: {first_line(error)}; give a state dict saved as .safetensors"
        ) from error
    if any(key.startswith(CARRIED) for key in state):  # a model file that carries its backbone
        state = {key.removeprefix(CARRIED): value for key, value in state.items() if key.startswith(CARRIED)}
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise BackboneError(f"{path} holds no weights")
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}, config


def _file_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a safetensors header says: our own JSON, or plain transform values under timm's names."""
    if "featurepipe" in metadata:
        config = json.loads(metadata["featurepipe"])
        if "backbone" in config:  # a model file
            config = config["backbone"]["spec"]
        return {**config, "transform": dict(config.get("transform", {}))}
    transform: dict[str, Any] = {}
    for key in ("mean", "std", "crop_pct", "input_size"):
        if key in metadata:
            transform[key] = json.loads(metadata[key])
    transform.update({key: metadata[key] for key in ("interpolation", "crop_mode") if key in metadata})
    return {"transform": transform}


def load_weights(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, name: str) -> None:
    """Load weights strictly, after timm's own key conversion for this architecture and without the classifier."""
    own = module.state_dict()
    reshaped = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    other_size = bool(reshaped) and all("pos" in key for key in reshaped)  # position tables of another img_size
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is not None and (other_size or not own.keys() <= state.keys()):
        with contextlib.suppress(Exception):  # it takes for granted that the weights are this architecture's
            state = convert(dict(state), module)
    classifiers = module.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{c}." for c in ([classifiers] if isinstance(classifiers, str) else classifiers))
    state = {key: value for key, value in state.items() if key in own or not key.startswith(prefixes)}
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # absent from some files, used by none
    missing = own.keys() - state.keys() - counters
    unexpected = state.keys() - own.keys()
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has unknown", unexpected), ("has other shapes for", shapes)):
        if keys:
            first = ", ".join(sorted(keys)[:3])
            raise BackboneError(
                f"{path} does not fit {name}: it {what} {len(keys)} of its tensors ({first}…); "
                "check the name, and --backbone-arg for what shapes the architecture"
            )
    module.load_state_dict(state, strict=not counters)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
