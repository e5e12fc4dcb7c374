"""The model file: one ``.safetensors`` file that holds a trained head and says what it belongs to.

Tensors: ``head.weight`` and ``head.bias`` (scikit-learn's ``coef_`` and ``intercept_`` for raw embeddings, the
standardisation folded in), ``seen`` (sorted first 8 bytes of the sha256 of every image used for training or
selection), and, where it was asked for, the whole backbone as ``backbone.*``. The header's metadata has one key,
``featurepipe``, whose JSON (``encoding-type`` "featurepipe-model", ``encoding-version`` "1.0") gives ``kind``,
``classes``, ``temperature``, ``head-sha256`` (of the bytes of head.weight and head.bias), ``backbone`` (name,
fingerprint, spec, source) and ``card`` (data, selection, figures, baselines, versions). Loading runs no code from the
file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones
from featurepipe.digests import sha256_bytes
from featurepipe.errors import FeaturepipeError, FormatTooNew, ModelFileError
from featurepipe.files import atomic
from featurepipe.probes import probabilities
from featurepipe.statistics import ridge_classifier

ENCODING_TYPE = "featurepipe-model"
ENCODING_VERSION = "1.0"


@dataclass(frozen=True)
class Model:
    """A trained head and the description of its backbone.

    Attributes
    ----------
    kind : str
        ``logistic`` or ``ridge``.
    estimator : LogisticRegression or RidgeClassifier
        A scikit-learn estimator for raw embeddings.
    temperature : float
        See `featurepipe.probes.Probe`.
    backbone : dict
        ``name, fingerprint, spec, source``.
    seen : ndarray of uint64
        Contents used for training or selection, by the first 8 bytes of their sha256.
    card : dict
        Data, selection, figures, baselines, versions.
    """

    kind: str
    estimator: Any
    temperature: float
    backbone: dict[str, Any]
    seen: np.ndarray
    card: dict[str, Any]

    @property
    def classes(self) -> np.ndarray:
        """Class labels in the order of the probability columns."""
        return self.estimator.classes_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of embeddings X (n, width); shape (n, classes)."""
        return probabilities(self.estimator, X, self.temperature)

    def has_seen(self, digests: Sequence[str]) -> np.ndarray:
        """Which contents were used for training or selection; bool of shape (n,)."""
        return np.isin(digest_keys(digests), self.seen)


def digest_keys(digests: Sequence[str]) -> np.ndarray:
    """The first 8 bytes of hexadecimal digests, as uint64 of shape (n,)."""
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)


def save(path: str | Path, model: Model, *, module: Any = None) -> None:
    """Write a model file atomically.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``.
    model : Model
    module : torch.nn.Module, optional
        The backbone itself, to make the file independent of where the weights came from.

    Raises
    ------
    ModelFileError
        Another suffix.
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    check_suffix(path)
    weight = np.ascontiguousarray(np.atleast_2d(model.estimator.coef_))  # a binary ridge's may be flat
    bias = np.ascontiguousarray(np.atleast_1d(model.estimator.intercept_))
    header = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        "head-sha256": _head_digest(weight, bias),
        "kind": model.kind,
        "classes": model.classes.tolist(),
        "temperature": model.temperature,
        "backbone": model.backbone,
        "card": model.card,
    }
    tensors = {
        "head.weight": weight,
        "head.bias": bias,
        "seen": np.unique(model.seen),
    }
    if module is not None:
        state = module.state_dict()  # whatever its layout in memory: the file takes an array's memory as it stands
        tensors |= {f"backbone.{key}": value.cpu().contiguous().numpy() for key, value in state.items()}
    with atomic(path, verify=load) as temporary:
        # not save_file, whose files only their owner may read
        temporary.write_bytes(to_bytes(tensors, metadata={"featurepipe": json.dumps(header, allow_nan=False)}))


def check_suffix(path: Path) -> None:
    """Raise ModelFileError unless `path` ends as a model file does."""
    if path.suffix != ".safetensors":
        raise ModelFileError(f"a model file ends in .safetensors; {path.name} does not")


def load(path: str | Path) -> Model:
    """Read a model file.

    Raises
    ------
    ModelFileError
        Missing, damaged, or something else.
    FormatTooNew
        Written by a later featurepipe.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ModelFileError(f"model file {path} does not exist; make one with: featurepipe probe")
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get("featurepipe", "{}"))
            kind = header.get("encoding-type")
            if kind != ENCODING_TYPE:
                raise ModelFileError(f"{path} is not a featurepipe model (encoding-type {kind!r})")
            version = str(header["encoding-version"])
            if int(version.split(".")[0]) > int(ENCODING_VERSION.split(".")[0]):
                raise FormatTooNew(
                    f"{path} has model format {version}, this featurepipe reads {ENCODING_VERSION}; upgrade it"
                )
            weight, bias, seen = (file.get_tensor(key) for key in ("head.weight", "head.bias", "seen"))
        if header["head-sha256"] != _head_digest(weight, bias):
            raise ModelFileError(f"{path}: its weights do not match their digest; make it again with featurepipe probe")
        estimator = _restore(header["kind"], np.array(header["classes"]), weight, bias, header["card"])
        return Model(header["kind"], estimator, header["temperature"], header["backbone"], seen, header["card"])
    except FeaturepipeError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ModelFileError(f"{path} cannot be read as a model: {error}") from error


def open_backbone(
    model: Model, path: str | Path, *, weights: str | Path | None = None, device: str = "auto"
) -> backbones.Backbone | backbones.Descriptor:
    """Make the backbone that a model file belongs to, and check that it is the very same.

    Parameters
    ----------
    model : Model
    path : path
        Its file: the weights are taken from it where it holds them.
    weights : path, optional
        Where the backbone's weights are now, if they have moved.
    device : str

    Raises
    ------
    FingerprintMismatch
        Other weights, or anything else that decides a vector.
    WeightsUnavailable
        The weights cannot be found.
    """
    source: Mapping[str, Any] = model.backbone["source"]
    if weights is None and _holds_backbone(Path(path)):
        weights, source = path, {**source, "random_seed": None}
    return backbones.recreate(model.backbone["spec"], source, weights=weights, device=device)


def _head_digest(weight: np.ndarray, bias: np.ndarray) -> str:
    return sha256_bytes(weight.tobytes() + bias.tobytes())


def _holds_backbone(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return any(key.startswith("backbone.") for key in file.keys())  # noqa: SIM118  # not a dict


def _restore(kind: str, classes: np.ndarray, weight: np.ndarray, bias: np.ndarray, card: Mapping[str, Any]) -> Any:
    """A scikit-learn estimator as if it had been fitted here."""
    from sklearn.linear_model import LogisticRegression

    rows = 1 if len(classes) == 2 else len(classes)
    if weight.ndim != 2 or len(weight) != rows or bias.shape != (rows,):
        raise ValueError(f"a head of shape {weight.shape} + {bias.shape} does not fit {len(classes)} classes")
    if kind == "ridge":
        return ridge_classifier(classes, weight, bias, card["selection"]["chosen"])
    if kind != "logistic":
        raise ModelFileError(f"probe kind {kind!r} is unknown to this featurepipe; upgrade it")
    estimator = LogisticRegression(C=card["selection"]["chosen"])
    estimator.classes_, estimator.coef_, estimator.intercept_ = classes, weight, bias
    estimator.n_features_in_ = weight.shape[1]
    return estimator
