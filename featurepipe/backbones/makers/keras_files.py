"""Keras files as a family: ``keras:FILE.keras``.

The model is cut before its last dense layer, or behind the layer that ``--layer`` names. Keras computes with torch,
which is there anyway, unless it has been loaded or told otherwise before: so no TensorFlow is needed.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from featurepipe.backbones.makers.foreign import ForeignNetwork, feed_of, finish, resolve_transform
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import PENULTIMATE
from featurepipe.backbones.trust import ALLOW
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_arrays, sha256_json
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable

CONFIG = "config.json"  # in the archive
ENDINGS = ("Activation", "Softmax", "Dropout")  # layers that may follow the last dense one
SCALING = ("Rescaling", "Normalization")  # layers that want pixels themselves


class KerasFiles(Maker):
    """A network by the path of its ``.keras`` file."""

    family = "keras"

    def knows(self, name: Any) -> bool:
        """None without the family in front."""
        return False

    def create(self, name: Any, request: Request) -> ForeignNetwork:
        """See `Maker.create`; the one argument is ``channels``, rgb or bgr."""
        called = f"keras:{os.path.basename(name)}"
        request.allow(called, "layer", "arguments", "transform", "precision")
        if unknown := request.arguments.keys() - {"channels"}:
            raise BackboneError(f"{called} takes the argument channels alone, not {min(unknown)!r}")
        path = Path(name)
        keras = require_keras()
        config = _configuration(path)
        model = _loaded(keras, path)
        if len(model.inputs) != 1:
            raise BackboneError(f"{called} takes {len(model.inputs)} inputs; a backbone takes images and nothing else")
        (given,) = model.inputs
        feed, own = feed_of(tuple(given.shape), np.dtype(given.dtype), called, last=True)
        if any(type(layer).__name__ in SCALING for layer in _layers(model)):
            own |= {"mean": 0.0, "std": 1 / 255}
        transform, told = resolve_transform(own, feed, request.transform, called)
        tensor, layer, notes = _cut(model, request.layer, called)
        weights = {f"{number} {one.path}": keras.ops.convert_to_numpy(one) for number, one in enumerate(model.weights)}
        return finish(
            _runner(keras, keras.Model(given, tensor)),
            feed,
            transform,
            request,
            name=called,
            architecture="keras:model",
            arguments={"output": layer},
            weights=sha256_json([sha256_json(config), sha256_arrays(weights)]),
            place=f"keras:{path.resolve()}",
            notes=[*told, *notes],
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; what a model consists of is named in the file, so only with trust."""
        place = str(origin.weights or origin.source["name"].removeprefix("keras:"))
        if not origin.trust:
            raise BackboneError(f"{origin.who} wants Keras to load {place!a}, which may hold code; {ALLOW}")
        arguments = {"channels": spec["arguments"].get("channels", "rgb")}
        return {"name": f"keras:{place}", "arguments": arguments, **{key: spec[key] for key in ("layer", "transform")}}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are files."""
        return []


def _configuration(path: Path) -> Any:
    """What a file says of its model's layers.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        It is not a ``.keras`` file.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"Keras file {path} does not exist; write keras:FILE.keras")
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(CONFIG))["config"]
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise BackboneError(
            f"{path} is not a .keras file, or is damaged ({first_line(error)}); write one with model.save('NAME.keras')"
        ) from error


def _loaded(keras: ModuleType, path: Path) -> Any:
    """The model of a file; its code, if it brings any, is not run."""
    try:
        with keras.device("cpu"):
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a file can be broken in more ways than Keras has exceptions for
        raise BackboneError(f"{path} cannot be loaded by Keras: {first_line(error)}") from error
    if not isinstance(model, keras.Sequential) and type(model).__name__ != "Functional":
        raise BackboneError(
            f"{path} holds a {type(model).__name__}, not a Sequential or functional model, so it cannot be cut; "
            "export it as a SavedModel, and write tensorflow:FOLDER"
        )
    return model


def _layers(model: Any) -> Iterator[Any]:
    """All layers, those of models inside it too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _cut(model: Any, layer: str, called: str) -> tuple[Any, str, list[str]]:
    """The tensor that becomes the embedding, the layer that gives it, and what to say of it."""
    known = {one.name: one for one in model.layers}
    if layer != PENULTIMATE:
        if layer not in known:
            raise BackboneError(f"{called} has no layer {layer!r}; its last are {', '.join([*known][-4:])}")
        return known[layer].output, layer, []
    if len(model.outputs) > 1:
        raise BackboneError(f"{called} gives {len(model.outputs)} outputs; choose a layer with --layer")
    rest = [*model.layers]
    while type(rest[-1]).__name__ in ENDINGS:
        rest.pop()
    if type(rest[-1]).__name__ == "Dense":
        last = rest[-1].name
        return rest[-1].input, f"before {last}", [f"{called} is cut before its last dense layer {last}"]
    return (
        model.outputs[0],
        model.layers[-1].name,
        [f"{called} does not end in a dense layer; the embedding is its output"],
    )


def _runner(keras: ModuleType, model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The function that runs a model."""
    import torch

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad(), keras.device("cpu"):
            return keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(x), training=False))

    return run


def require_keras() -> ModuleType:
    """The library, on torch unless somebody has chosen another.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError as error:
        raise DependencyMissing("keras:FILE needs Keras 3: pip install 'featurepipe[keras]'") from error
    return keras
