"""Backbone files: a plain checkpoint of timm in safetensors, which says of itself what it is and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from featurepipe import __version__, files
from featurepipe.backbones import Backbone, carried_card
from featurepipe.digests import sha256_state_dict
from featurepipe.files import atomic

ENCODING_TYPE, ENCODING_VERSION = "featurepipe-backbone", "1.1"


def header_of(backbone: Backbone, state: Mapping[str, Tensor], name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of the file's metadata: what the network is, its transform, and the card of its pretraining."""
    transform = {key: value for key, value in asdict(backbone.transform).items() if key != "decoder"}
    return {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        "name": name,
        "architecture": backbone.spec["architecture"],
        "arguments": backbone.spec["arguments"],
        "transform": transform,
        "weights-sha256": sha256_state_dict(state),
        "licence": card["licence"],
        "source": f"pretrained by featurepipe {__version__}: {card['objective']} on {card['data']['name']}",
        "pretraining": dict(card),
    }


def save(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a backbone file atomically.

    Parameters
    ----------
    path : Path
    state : mapping
        timm's state dict, without a classifier.
    header : mapping
        See `header_of`.

    Raises
    ------
    OutputError
        The disk is full, or may not be written.
    """
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file(dict(state), temporary, metadata={"featurepipe": json.dumps(header)})


def is_backbone(path: Path) -> bool:
    """Whether a file is a backbone file."""
    return carried_card(path) is not None


def is_figures(path: Path) -> bool:
    """Whether a file holds the figures of a pretraining."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"backbone", "objective", "curve", "card"} <= set(found)


def check_output(path: Path, inputs: Any = (), *, force: bool = False) -> None:
    """Refuse a place where a backbone file cannot or must not be written; see `featurepipe.files.check_output`."""
    files.check_output(path, "backbone file", is_backbone, inputs, force=force)
