"""SavedModels as a family: ``tensorflow:FOLDER``, as Keras exports them and as modules of TensorFlow Hub come.

A SavedModel cannot be cut: the embedding is what one of its signatures gives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from featurepipe.backbones.makers.foreign import ForeignNetwork, feed_of, finish, resolve_transform
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import PENULTIMATE
from featurepipe.backbones.trust import ALLOW
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_file, sha256_json
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable

GRAPH, OLD = "saved_model.pb", "tfhub_module.pb"  # every SavedModel has the one; TF1's modules of the hub the other
ASIDE = {"fingerprint.pb", "keras_metadata.pb"}  # which differ from export to export
PREFERRED = ("serving_default", "default", "serve")  # signatures, the first that is there
HUB = {"mean": 0.0, "std": 1.0}  # images of the hub are 0…1


class TensorflowFolders(Maker):
    """A network by the folder of its SavedModel."""

    family = "tensorflow"

    def knows(self, name: Any) -> bool:
        """None without the family in front."""
        return False

    def create(self, name: Any, request: Request) -> ForeignNetwork:
        """See `Maker.create`; arguments are ``signature`` and ``channels``, and the layer is an output of it."""
        folder = Path(name)
        called = f"tensorflow:{folder.resolve().name}"
        request.allow(called, "layer", "arguments", "transform", "precision")
        if unknown := request.arguments.keys() - {"signature", "channels"}:
            raise BackboneError(f"{called} takes the arguments signature and channels, not {min(unknown)!r}")
        digest = _digest(folder)
        tf = require_tensorflow()
        loaded = _loaded(tf, folder)
        signature = _signature(loaded, request.arguments.get("signature"), called)
        given, wanted = _input(loaded.signatures[signature], called)
        output = _output(loaded.signatures[signature], request.layer, called)
        feed, own = feed_of(wanted.shape.as_list(), np.dtype(wanted.dtype.as_numpy_dtype), called, last=True)
        transform, notes = resolve_transform({**own, **HUB}, feed, request.transform, called)
        if feed.dtype.kind == "f" and not {"mean", "std"} <= request.transform.keys():
            notes.append(
                f"{called} gets pixels scaled to 0–1, as modules of TensorFlow Hub do; give others by mean and std"
            )
        return finish(
            _runner(tf, loaded, signature, given, output),
            feed,
            transform,
            request,
            name=called,
            architecture="tensorflow:saved-model",
            arguments={"signature": signature, "output": output},
            weights=digest,
            place=f"tensorflow:{folder.resolve()}",
            notes=[*notes, f"{called}: the embedding is the output {output} of the signature {signature}"],
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; a SavedModel is a program that may read and write files, so only with trust."""
        place = str(origin.weights or origin.source["name"].removeprefix("tensorflow:"))
        if not origin.trust:
            raise BackboneError(f"{origin.who} wants TensorFlow to run {place!a}, which is a program; {ALLOW}")
        arguments = {key: value for key, value in spec["arguments"].items() if key != "output"}
        how = {key: spec[key] for key in ("layer", "transform")}
        return {"name": f"tensorflow:{place}", "arguments": arguments, **how}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are folders."""
        return []


def _digest(folder: Path) -> str:
    """sha256 of all that is in a folder of a SavedModel, wherever it lies.

    Raises
    ------
    WeightsUnavailable
        There is no such folder.
    BackboneError
        It is not one of a SavedModel.
    """
    if not folder.is_dir():
        raise WeightsUnavailable(f"folder {folder} does not exist; write tensorflow:FOLDER of a SavedModel")
    if not (folder / GRAPH).is_file():
        raise BackboneError(f"{folder} is not the folder of a SavedModel: it has no {GRAPH}")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ASIDE)
    return sha256_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])


def _loaded(tf: ModuleType, folder: Path) -> Any:
    try:
        return tf.saved_model.load(str(folder), tags=[] if (folder / OLD).exists() else None)
    except Exception as error:  # a folder can be broken in more ways than TensorFlow has exceptions for
        raise BackboneError(f"{folder} cannot be loaded by TensorFlow: {first_line(error)}") from error


def _signature(loaded: Any, wanted: str | None, called: str) -> str:
    """The signature to call: the one that is wanted, the only one, or one with a usual name."""
    known = sorted(loaded.signatures)
    if wanted in known:
        return str(wanted)
    usual = [name for name in PREFERRED if name in known]
    if wanted is None and (len(known) == 1 or usual):
        return usual[0] if usual else known[0]
    if not known:
        raise BackboneError(f"{called} has no signatures; export the model with model.export('FOLDER')")
    asked = "" if wanted is None else f"has no signature {wanted!r}; "
    raise BackboneError(f"{called}: {asked}choose one with --backbone-arg signature=NAME: {', '.join(known)}")


def _input(signature: Any, called: str) -> tuple[str, Any]:
    """The name and description of the one input."""
    found = signature.structured_input_signature[1]
    if len(found) != 1:
        raise BackboneError(
            f"{called} takes {len(found)} inputs ({', '.join(sorted(found))}); a backbone takes images and nothing else"
        )
    ((name, wanted),) = found.items()
    if wanted.shape.rank is None:
        raise BackboneError(f"{called} does not say the shape of its input {name}; export it with one of 4 axes")
    return name, wanted


def _output(signature: Any, layer: str, called: str) -> str:
    """The name of the output that becomes the embedding."""
    known = sorted(signature.structured_outputs)
    if layer in known:
        return layer
    if layer == PENULTIMATE and len(known) == 1:
        return known[0]
    asked = "" if layer == PENULTIMATE else f"has no output {layer!r}; "
    raise BackboneError(f"{called}: {asked}choose one with --layer: {', '.join(known)}")


def _runner(tf: ModuleType, loaded: Any, signature: str, given: str, output: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function that calls a signature; it holds what was loaded, which the signature alone does not."""
    return lambda x: loaded.signatures[signature](**{given: tf.constant(x)})[output].numpy()


def require_tensorflow() -> ModuleType:
    """The library.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else it greets on stderr
    try:
        import tensorflow
    except ImportError as error:
        raise DependencyMissing("tensorflow:FOLDER needs TensorFlow: pip install 'featurepipe[tensorflow]'") from error
    return tensorflow
