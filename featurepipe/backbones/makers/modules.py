"""Any torch module as a family: given in Python, or by the function that makes it, ``module:package.file:function``.

A module's code cannot be hashed as a whole. Its spec has the name of its class, the digest of its structure (its
repr) and of its weights, and one of the source files of all classes in it that are not torch's own.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.assembly import assemble
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.trust import ALLOW
from featurepipe.backbones.weights import check_finite, first_line, load_weights, read_weights
from featurepipe.digests import sha256_bytes, sha256_file, sha256_json
from featurepipe.errors import BackboneError
from featurepipe.images import DEFAULT_DECODER, ImageTransform

if TYPE_CHECKING:
    import torch

FORM = "module:PACKAGE.FILE:FUNCTION"
IMAGENET = ImageTransform(
    (3, 224, 224), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "center", DEFAULT_DECODER
)


def is_module(value: Any) -> bool:
    """Whether a value is a torch module; torch is not loaded to find out."""
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(value, loaded.nn.Module)


class Modules(Maker):
    """A torch module that the caller has, or a function that makes one."""

    family = "module"

    def knows(self, name: Any) -> bool:
        """Whether it is a module itself."""
        return is_module(name)

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`; the module is copied, so that later training cannot change the vectors."""
        from featurepipe.backbones.plain import Plain, check_output, check_repeatable

        module, own = (name, None) if is_module(name) else _made(name)
        kind = f"module:{type(module).__module__}.{type(module).__qualname__}"
        called = kind if is_module(name) else f"module:{name}"
        request.allow(called, "weights", "precision", "transform")
        given = {**(own or {}), **request.transform}
        transform = ImageTransform.from_mapping({**asdict(IMAGENET), **given})
        network = Plain(_copied(module, called))
        notes = _notes(module, called, bool(given))
        if request.weights is not None:
            notes += filter(None, [load_weights(network, read_weights(Path(request.weights))[0], called)])
        check_finite(network, called)
        if check_output(network, transform, called):
            notes.append(f"{called} gives a map of features; the embedding is its mean over all places")
        weights = None if request.weights is None else str(Path(request.weights).resolve())
        made = assemble(
            network,
            transform,
            request,
            name=called,
            architecture=kind,
            arguments={"structure": sha256_bytes(repr(module).encode()), "code": _code_digest(module)},
            source={"name": called, "weights": weights, "random_seed": None},
            notes=notes,
        )
        check_repeatable(made)
        return made

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; importing runs code, so only with trust."""
        name = origin.source["name"]
        place = name.removeprefix("module:")
        if ":" not in place:
            raise BackboneError(
                f"{origin.who} was made with the torch module {place!a}, which no file can hold; "
                "give the module itself again, as backbone of extract or FeatureExtractor"
            )
        if not origin.trust:
            raise BackboneError(f"{origin.who} wants to import {place!a}, which runs the code in it; {ALLOW}")
        how = {"transform": spec["transform"], "precision": spec["precision"]}
        return {"name": f"module:{place}", "weights": origin.weights, **how}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are in their users' hands."""
        return []


def _made(place: str) -> tuple[torch.nn.Module, Mapping[str, Any] | None]:
    """What a function makes: a module, and its transform where it gives one."""
    path, _, function = place.partition(":")
    if not path or not function:
        raise BackboneError(f"module:{place} does not say which function makes the module; write {FORM}")
    with _importable(os.getcwd()):
        try:
            found = getattr(importlib.import_module(path), function)()
        except Exception as error:  # it is anybody's code
            raise BackboneError(
                f"module:{place} cannot be made: {type(error).__name__}: {first_line(error)}; write {FORM}, of a file "
                "below the current folder or an installed package, and a function that needs no arguments"
            ) from error
    module, transform = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not is_module(module):
        raise BackboneError(f"module:{place} gives a {type(module).__name__}, not a torch module")
    if isinstance(transform, ImageTransform):
        transform = asdict(transform)
    if transform is not None and not isinstance(transform, Mapping):
        raise BackboneError(
            f"module:{place} gives a {type(transform).__name__} for its transform; give a dict with values such as "
            "input_size, mean, std, interpolation, crop_pct"
        )
    return module, transform


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Within, modules are found in a folder too, as they are by ``python -m``."""
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _copied(module: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # a module may hold anything
        raise BackboneError(f"{name} cannot be copied, so it could not stay frozen: {first_line(error)}") from error


def _notes(module: torch.nn.Module, name: str, has_transform: bool) -> list[str]:
    """What is taken for granted of a module, and may be wrong."""
    import torch

    found = []
    if not has_transform:
        found.append(f"{name} comes without a transform; it gets ImageNet's: 224×224, bicubic, crop_pct 0.875")
    *_, last = module.modules()
    if isinstance(last, torch.nn.Linear):
        found.append(
            f"{name} ends in a linear layer of {last.out_features} outputs; if that is its classifier, replace it by "
            "torch.nn.Identity() to get the embedding before it"
        )
    return found


def _code_digest(module: torch.nn.Module) -> str | None:
    """sha256 of the source files of a module's classes, except torch's own; None where there are none."""
    kinds = {type(part) for part in module.modules()}
    files = {_source_file(kind) for kind in kinds if kind.__module__.partition(".")[0] != "torch"} - {None}
    return sha256_json(sorted(sha256_file(Path(file)) for file in files if file)) if files else None


def _source_file(kind: type) -> str | None:
    """A class's file; None of one that was typed in."""
    try:
        file = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return None
    return file if file is not None and os.path.isfile(file) else None
