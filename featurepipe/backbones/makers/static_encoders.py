"""Static encoders as a family, ``model2vec:NAME_OR_FOLDER``: vectors of tokens, whose mean is a text's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.backbones.encoders import Encoder
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.makers.sentence_encoders import snapshot
from featurepipe.backbones.specs import PENULTIMATE, make_spec
from featurepipe.backbones.trust import ALLOW, GIVE
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_arrays
from featurepipe.errors import BackboneError, DependencyMissing
from featurepipe.texts import TextTransform


class StaticEncoders(Maker):
    """Encoders of the library model2vec, from a folder or a hub."""

    family = "model2vec"

    def knows(self, name: Any) -> bool:
        """None without the family in front."""
        return False

    def create(self, name: Any, request: Request) -> Encoder:
        """See `Maker.create`."""
        called = f"model2vec:{name}"
        request.allow(called)
        is_folder = Path(name).is_dir()
        model = _loaded(Path(name) if is_folder else snapshot(name, request.download), called)
        return Encoder(
            name=called,
            spec=make_spec(
                "model2vec:mean",
                {"normalize": bool(model.normalize), "tokens": model.max_length},
                _digest(model),
                TextTransform(),
                PENULTIMATE,
                None,
                "fp32",
            ),
            source={
                "name": f"model2vec:{Path(name).resolve() if is_folder else name}",
                "weights": None,
                "random_seed": None,
            },
            width=int(model.dim),
            encode=partial(_encode, model),
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; only with trust, unless the caller gives the folder."""
        if origin.weights is not None:
            return {"name": f"model2vec:{origin.weights}"}
        if not origin.trust:
            raise BackboneError(f"{origin.who} wants to load {origin.source['name']!a}; {ALLOW}, or {GIVE}")
        return {"name": origin.source["name"]}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are on a hub."""
        return []

    def fetches(self, name: Any) -> bool:
        """Whether it is on a hub."""
        return not Path(name).is_dir()


def _loaded(folder: Path, name: str) -> Any:
    try:
        from model2vec import StaticModel
    except ImportError as error:
        raise DependencyMissing(f"{name} needs model2vec: pip install 'featurepipe[model2vec]'") from error
    try:
        return StaticModel.from_pretrained(folder)
    except Exception as error:  # whatever a folder with wrong content makes of a loader
        raise BackboneError(f"{name} cannot be loaded by model2vec: {first_line(error)}") from error


def _digest(model: Any) -> str:
    """sha256 of vectors, weights and tokenizer."""
    tokenizer = np.frombuffer(model.tokenizer.to_str().encode(), np.uint8)
    arrays = {"vectors": model.embedding, "weights": model.weights, "mapping": model.token_mapping}
    held = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    return sha256_arrays({**held, "tokenizer": tokenizer})


def _encode(model: Any, texts: Sequence[str]) -> np.ndarray:
    return model.encode(list(texts), use_multiprocessing=False)
