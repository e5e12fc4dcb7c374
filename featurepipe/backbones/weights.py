"""Weights files: read without running code, and loaded strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe import jsons
from featurepipe.backbones.formats import SAFETENSORS, Content, Unfit, Unreadable, first_line, read_content, recognise
from featurepipe.backbones.matches import find_weights
from featurepipe.backbones.specs import SPEC_FORMAT, check_description
from featurepipe.digests import sha256_arrays
from featurepipe.errors import BackboneError, FormatTooNew, WeightsUnavailable

if TYPE_CHECKING:
    import torch

BACKBONE_FILE = "featurepipe-backbone"  # what our own weights call themselves
CARRIED = "backbone."  # what the names of a backbone's tensors begin with in a model file
NETWORK = {  # what the header of our own weights says
    "architecture?": jsons.TEXT,
    "arguments?": jsons.Each(jsons.ANYTHING),
    "layer?": jsons.TEXT,
    "pooling?": (jsons.TEXT, None),
    "transform?": {"input_size?": [jsons.COUNT]},
}
OPTION = "with --weights (weights= in Python)"


def is_model_name(name: str | PathLike[str] | None) -> bool:
    """Whether a backbone is called by the name of a model file; no timm name ends so."""
    return name is not None and str(name).lower().endswith(".safetensors")


def carried_backbone(path: str | PathLike[str]) -> dict[str, Any]:
    """What a model file says of the backbone that it carries: ``name, fingerprint, spec, source``.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        It is not a model file, or holds no backbone.
    FormatTooNew
        A later featurepipe described the backbone.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise WeightsUnavailable(f"model file {path} does not exist; give its place, or a backbone's name")
    try:
        if (format := recognise(Path(path))) != SAFETENSORS:
            raise Unreadable(f"it is {format}; name the architecture and give it {OPTION}")
        with safe_open(path, "np") as file:
            header = jsons.loads((file.metadata() or {}).get("featurepipe", "{}"), "its header")
            carries = any(key.startswith(CARRIED) for key in file.keys())  # noqa: SIM118  # not a dict
        found = header.get("backbone") if isinstance(header, dict) else None
        if found is not None:
            check_description(found)
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneError(f"{path} cannot be read as a model file: {first_line(error)}") from error
    if found is None:
        raise BackboneError(
            f"{path} is not a featurepipe model file; for a file of weights alone, also name the architecture: "
            "-b NAME --weights FILE (backbone=, weights= in Python)"
        )
    if "members" in found:
        raise BackboneError(f"{path} is a joint probe on {found['name']} and holds no backbone; use one of their names")
    if not carries:
        raise BackboneError(
            f"{path} holds no backbone, only a head for {found['name']}; use the backbone's own name, "
            "or store it in the file with: featurepipe probe --include-backbone"
        )
    if found["spec"].get("format", 0) > SPEC_FORMAT:
        raise FormatTooNew(f"{path} has a backbone of format {found['spec']['format']}; upgrade featurepipe")
    return found


def carried_card(path: Path) -> dict[str, Any] | None:
    """What a backbone file says of itself; None of any other file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe of that name would be waited for
        return None
    try:
        with safe_open(path, "np") as file:
            header = jsons.loads((file.metadata() or {}).get("featurepipe", "{}"), "its header")
    except (SafetensorError, OSError, ValueError):
        return None
    is_one = isinstance(header, dict) and header.get("encoding-type") == BACKBONE_FILE
    return header if is_one and isinstance(header.get("architecture"), str) else None


def carried_digest(path: str | PathLike[str]) -> str | None:
    """The sha256 of the backbone's weights in a model file or a backbone file, as the file says it.

    Raises
    ------
    WeightsUnavailable, BackboneError, FormatTooNew
        As for `carried_backbone`.
    """
    card = carried_card(Path(path))
    return carried_backbone(path)["spec"]["weights"] if card is None else card.get("weights-sha256")


def read_weights(path: Path) -> tuple[Content, dict[str, Any]]:
    """What a weights file holds, and what it says of itself: ``architecture, arguments, transform``.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        It is not a file of weights, or it could run code.
    """
    if path.is_dir():
        raise WeightsUnavailable(f"{path} is a folder; give the weights file inside it {OPTION}")
    if not path.is_file():
        raise WeightsUnavailable(f"weights file {path} does not exist; give its place {OPTION}")
    try:
        content = read_content(path)
        config = _file_config(content.metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unfit(f"{path} cannot be read as weights: {first_line(error)}") from error
    if "featurepipe" in content.metadata and any(key.startswith(CARRIED) for key in content.values):  # a model file
        carried = {key: value for key, value in content.values.items() if key.startswith(CARRIED)}
        _check_carried(path, content.metadata["featurepipe"], carried)
        content = replace(content, values={key.removeprefix(CARRIED): value for key, value in carried.items()})
    return content, config


def _check_carried(path: Path, header: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compare a carried backbone with its digest, which model files have since 1.2."""
    wanted = jsons.loads(header, "its header").get("backbone-sha256")
    if wanted is not None and wanted != _digest(tensors):
        raise Unfit(f"{path} is damaged: its backbone does not match its digest; make it again, or copy it again")


def _digest(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """sha256 of tensors; None of types that NumPy has not, which no model file holds."""
    try:
        return sha256_arrays({key: tensor.numpy() for key, tensor in tensors.items()})
    except TypeError:
        return None


def _file_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a safetensors header says: our own JSON, or plain transform values under timm's names."""
    if "featurepipe" in metadata:
        config = jsons.loads(metadata["featurepipe"], "its header")
        if isinstance(config, dict) and "backbone" in config:  # a model file
            jsons.check(config, {"backbone": {"spec": NETWORK}}, "its header")
            config = config["backbone"]["spec"]
        jsons.check(config, NETWORK, "its header")
        return {**config, "transform": dict(config.get("transform", {}))}
    transform: dict[str, Any] = {}
    for key in ("mean", "std", "crop_pct", "input_size"):
        if key in metadata:
            transform[key] = jsons.loads(metadata[key], key)
    transform.update({key: metadata[key] for key in ("interpolation", "crop_mode") if key in metadata})
    return {"transform": transform}


def load_weights(module: torch.nn.Module, content: Content, name: str) -> str | None:
    """Load what a file holds for a network, and nothing less; what was taken, where several would have fitted."""
    state, taken = find_weights(content, module, name)
    # Without the counters of batches, which some files lack.
    module.load_state_dict(state, strict=not any(key.endswith("num_batches_tracked") for key in module.state_dict()))
    return taken


def check_finite(module: torch.nn.Module, origin: str) -> None:
    """Refuse weights with values that are not numbers, by name.

    Raises
    ------
    BackboneError
        Which tensors hold NaN or infinite values, and how many.
    """
    counts = {key: int((~value.isfinite()).sum()) for key, value in module.state_dict().items()}
    broken = {key: count for key, count in counts.items() if count}
    if broken:
        first = ", ".join(f"{key}: {count} values" for key, count in list(broken.items())[:3])
        raise Unfit(
            f"{origin} holds NaN or infinite weights in {len(broken)} of {len(counts)} tensors ({first}); "
            "its training diverged or the file is damaged: take an earlier checkpoint, or download it again"
        )
