"""The model file: one ``.safetensors`` file that holds a trained head and says what it belongs to.

Tensors: the head, ``seen`` (sorted first 8 bytes of the sha256 of every image used for training or selection), and,
where it was asked for, the whole backbone as ``backbone.*``, floats as float32. The head takes raw embeddings x of
width D, any standardisation folded in; with K classes it is, by ``kind``:

logistic, ridge, svm, lda
    ``head.weight`` (K, D) and ``head.bias`` (K,), scikit-learn's ``coef_`` and ``intercept_``; (1, D) and (1,) for two
    classes. Scores are ``head.weight`` x + ``head.bias``.
centroid (since 1.1)
    ``head.weight`` (K, D), the class means; ``head.deviation`` (D,), scikit-learn's ``within_class_std_dev_``.
knn (since 1.1)
    ``head.rows`` (n, D) float32, of unit length; ``head.codes`` (n,) int64, the class number of each. The
    ``selection.chosen`` rows of greatest cosine vote, each with weight exp(cosine / 0.07).
approximate-knn (since 1.3)
    As knn, to the letter. Only what the card says was found by an approximate search.
mlp (since 1.1)
    ``head.0.weight`` (H, D), ``head.0.bias`` (H,), ``head.1.weight`` (K, H), ``head.1.bias`` (K,); one output for two
    classes. Scores are ``head.1.weight`` max(0, ``head.0.weight`` x + ``head.0.bias``) + ``head.1.bias``.
attentive (since 1.3)
    ``head.queries`` (M, D), ``head.values`` (V, D), ``head.weight`` (K, V), ``head.bias`` (K,). The backbone's spec has
    ``tokens``, and x are the tokens (T, D). Query m gives each token the weight softmax(``head.queries``[m] x), over
    the tokens. ``head.values``, in M parts of V / M rows, projects by part m the weighed mean of query m; scores are
    ``head.weight`` times these V numbers + ``head.bias``.
multi-label (since 1.1)
    ``head.weight`` (K, D) and ``head.bias`` (K,), for two labels, too. ``head.weight`` x + ``head.bias`` are the
    log-odds of each label for itself; those above 0 make up the set. ``selection.chosen`` maps each label to its C.
segmentation (since 1.3)
    ``head.weight`` (K, D) and ``head.bias`` (K,), for two classes, too. ``head.weight`` x + ``head.bias`` are the
    scores of each token x, which are interpolated to pixels.
zero-shot (since 1.2)
    ``head.weight`` (K, D), a vector of unit length for each class, for two classes, too; ``head.scale`` (1,). Scores
    are ``head.scale`` times the cosine of x and the class's vector.

The header's metadata has one key, ``featurepipe``, whose JSON (``encoding-type`` "featurepipe-model",
``encoding-version`` "1.2", or "1.3" of the kinds since then) gives ``kind``, ``classes``, ``temperature``,
``head-sha256`` (of the bytes of the head's tensors, in the order above), ``backbone`` (name, fingerprint, spec, source)
and ``card`` (data, selection, figures, baselines, versions). Since 1.2 ``sha256`` is of all this and of every tensor
except the backbone's, whose own digest ``backbone-sha256`` is, so that a head is read and checked without its backbone;
see docs/format.md. Loading runs no code from the file. Version 1.0 had the kinds logistic and ridge only.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe import backbones, files, jsons
from featurepipe.cards import Card
from featurepipe.digests import sha256_arrays, sha256_bytes, sha256_json, sha256_state_dict
from featurepipe.errors import FeaturepipeError, FormatTooNew, ModelFileError
from featurepipe.files import atomic
from featurepipe.matrices import FeatureMatrix
from featurepipe.probes import HEADS, MULTI_LABEL, probabilities
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch

ENCODING_TYPE = "featurepipe-model"
JOINT_VERSION = "2.0"  # of files of several backbones
LARGEST = 1e70  # of a head's numbers: with it, and a temperature from 1e-100, no score of float32 embeddings overflows
_LATEST = {1: (1, 3), 2: (2, 0)}  # of each major version, whose tensors are all known
SEALED = (1, 2)  # the first version with a digest of the whole file
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A trained head and the description of its backbone.

    Attributes
    ----------
    kind : str
        One of `featurepipe.probes.KINDS`, or ``multi-label``.
    estimator : scikit-learn classifier
        Classifier of that kind, for raw embeddings.
    temperature : float
        See `featurepipe.probes.Probe`.
    backbone : dict
        ``name, fingerprint, spec, source``; of several backbones what `joined` makes of theirs.
    seen : ndarray of uint64
        Contents used for training or selection, by the first 8 bytes of their sha256.
    card : Card
        Data, selection, figures, baselines, versions. It can be read as the mapping that the file holds, too.
    """

    kind: str
    estimator: Any
    temperature: float
    backbone: dict[str, Any]
    seen: np.ndarray
    card: Card

    @property
    def classes(self) -> np.ndarray:
        """Class labels in the order of the probability columns."""
        return self.estimator.classes_

    @property
    def backbones(self) -> list[dict[str, Any]]:
        """What is said of each backbone, in the order of their embeddings."""
        return self.backbone.get("members", [self.backbone])

    @property
    def is_multi_label(self) -> bool:
        """Whether each image gets a set of labels."""
        return self.kind == MULTI_LABEL

    @guarded
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of embeddings X (n, width); shape (n, classes)."""
        return probabilities(self.estimator, X, self.temperature)

    def has_seen(self, digests: Sequence[str] | np.ndarray) -> np.ndarray:
        """Which contents were used for training or selection; bool of shape (n,)."""
        return np.isin(digest_keys(digests), self.seen)

    def has_seen_rows(self, matrix: FeatureMatrix) -> np.ndarray:
        """Which rows, or other parts of their files, were used for training or selection; bool of shape (n,)."""
        return np.logical_or.reduce(np.isin(row_keys(matrix), self.seen), axis=1)


def digest_keys(digests: Sequence[str] | np.ndarray) -> np.ndarray:
    """The first 8 bytes of hexadecimal digests, as uint64 of shape (n,)."""
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)


def row_keys(matrix: FeatureMatrix) -> np.ndarray:
    """What rows are known by, as uint64 (n, 2): their own content, and the file that they are, or are a part of."""
    return np.stack([digest_keys(matrix.digests), digest_keys(matrix.files)], axis=1)


@guarded
def save(path: str | PathLike[str], model: Model, *, module: Any = None) -> None:
    """Write a model file atomically.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``.
    model : Model
    module : torch.nn.Module, optional
        The backbone itself, to make the file independent of where the weights came from: as tuned weights must be.

    Raises
    ------
    ModelFileError
        The suffix is another, or the module's weights are not those of the spec.
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    check_suffix(path)
    try:
        _check_classes(model.classes.tolist())
    except ValueError as error:
        raise ModelFileError(f"{path.name} cannot hold this model: {error}") from error
    head = _dump(model)
    header = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": _version(model),
        "head-sha256": _head_digest(head.values()),
        "kind": model.kind,
        "classes": model.classes.tolist(),
        "temperature": model.temperature,
        "backbone": model.backbone,
        "card": model.card.to_json(),
    }
    tensors, carried = {**head, "seen": np.unique(model.seen)}, {}
    if module is not None:
        state = module.state_dict()
        if sha256_state_dict(state) != model.backbone["spec"]["weights"]:  # nothing could open such a file
            raise ModelFileError(
                f"the network is not the one that the spec of {path.name} describes; its weights differ"
            )
        carried = {backbones.CARRIED + key: _array(value) for key, value in state.items()}
        header["backbone-sha256"] = sha256_arrays(carried)
    header["sha256"] = _digest(header, tensors)
    with atomic(path, verify=load) as temporary:
        # not save_file, whose files only their owner may read
        text = json.dumps(header, allow_nan=False)
        temporary.write_bytes(to_bytes(tensors | carried, metadata={"featurepipe": text}))


def _version(model: Model) -> str:
    """The earliest version that has what a model needs, so that earlier featurepipes read what they can."""
    if len(model.backbones) > 1:
        return JOINT_VERSION
    return HEADS[model.kind].since


def joined(backbones: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a model file says of its backbone; of several, ``name``, ``fingerprint`` over theirs, and ``members``."""
    if len(backbones) == 1:
        return backbones[0]
    fingerprint = sha256_json([one["fingerprint"] for one in backbones])
    name = " + ".join(one["name"] for one in backbones)
    return {"name": name, "fingerprint": fingerprint, "members": list(backbones)}


def check_single(model: Model, path: str | PathLike[str], what: str) -> None:
    """Raise ModelFileError where a model has several backbones; `what` begins the sentence that says who takes one."""
    if len(model.backbones) > 1:
        raise ModelFileError(
            f"{path} is a joint probe on {model.backbone['name']}, and {what} takes one backbone; use featurepipe "
            "predict or evaluate, or probe one of them alone"
        )


def seen_in_tuning(source: Mapping[str, Any], spec: Mapping[str, Any]) -> np.ndarray:
    """The contents that a backbone's network was tuned on, uint64, as far as its model file is still there to say."""
    model = _carrier(source, spec)
    tuned = model is not None and model.card.tuned is not None  # what a probe has seen has not shaped its backbone
    return model.seen if model is not None and tuned else np.zeros(0, np.uint64)


def licence_of(source: Mapping[str, Any], spec: Mapping[str, Any]) -> str | None:
    """The licence of a backbone's weights: that of their package, or what the model file says that holds them.

    None where it is not known.
    """
    model = _carrier(source, spec)
    return backbones.licence_of(source) if model is None else model.card.get("licence")


def _carrier(source: Mapping[str, Any], spec: Mapping[str, Any]) -> Model | None:
    """The model file that holds a backbone's weights, as far as it is still there."""
    if not backbones.is_model_name(source["weights"]):
        return None
    try:
        model = load(backbones.check_place(source["weights"], spec["weights"], "this"))
    except FeaturepipeError:  # mere weights, what is not to be opened, or what a later featurepipe wrote
        return None
    return model if model.backbones[0]["spec"]["weights"] == spec["weights"] else None


def check_suffix(path: Path) -> None:
    """Raise ModelFileError unless `path` ends as a model file does."""
    if path.suffix != SUFFIX:
        raise ModelFileError(f"a model file ends in .safetensors; {path.name} does not")


def is_model(path: str | PathLike[str]) -> bool:
    """Whether a file says that it is a featurepipe model, whatever its version and state."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():  # a pipe of that name would be waited for
        return False
    try:
        with safe_open(path, "np") as file:
            return _header(file).get("encoding-type") == ENCODING_TYPE
    except (SafetensorError, OSError, ValueError):
        return False


def check_output(path: Path, inputs: Iterable[str | PathLike[str] | None] = (), *, force: bool = False) -> None:
    """Refuse a place where a model file cannot or must not be written; see `featurepipe.files.check_output`."""
    check_suffix(path)
    files.check_output(path, "model file", is_model, inputs, force=force)


def find(path: str | PathLike[str]) -> list[Path]:
    """The model files that `path` may mean: itself, or those in a folder of results.

    The folder may be a backbone's (``NAME.featurepipe/resnet50.a1_in1k-0123abcd``), also without its fingerprint, or
    the one that holds all of them.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    called = glob.escape(path.name)
    places = ([path],) if path.is_dir() else map(path.parent.glob, (f"{called}-????????", f"{called}*"))
    for folders in places:
        within = (file for folder in folders for depth in ("*", "*/*") for file in folder.glob(depth + SUFFIX))
        if found := sorted(filter(is_model, within)):
            return found
    return []


def locate(path: str | PathLike[str]) -> Path:
    """The one model file that `path` means, as `find` understands it.

    Raises
    ------
    ModelFileError
        There is none, or there are several; the message lists them.
    """
    found = find(path)
    if len(found) > 1:
        raise ModelFileError(f"{path} holds several models; name one of them: {', '.join(map(str, found))}")
    if not found:
        problem = "holds no model file" if Path(path).is_dir() else "does not exist"
        raise ModelFileError(f"{path} {problem}; make a model file with: featurepipe probe")
    return found[0]


@guarded
def load(path: str | PathLike[str]) -> Model:
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
        if Path(path).is_dir():
            raise ModelFileError(f"{path} is a folder; give the model file in it (*{SUFFIX})")
        raise ModelFileError(f"model file {path} does not exist; make one with: featurepipe probe")
    try:
        with safe_open(path, "np") as file:
            header = _header(file)
            _check_version(header, path)
            tensors = _tensors(file, header)
        return _model(header, tensors)
    except FeaturepipeError:
        raise
    except _Damaged as error:
        raise ModelFileError(f"{path}: {error}; make it again with featurepipe probe, or copy it again") from error
    except (SafetensorError, OSError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path} cannot be read as a model ({error}); name a file that featurepipe wrote"
        ) from error


def load_of_samples(path: str | PathLike[str]) -> Model:
    """As `load`, for those who want one answer for each sample; ModelFileError where a model answers for pixels."""
    model = load(path)
    if HEADS[model.kind].of_pixels:
        raise ModelFileError(
            f"{path} is a {model.kind} model, which answers for each pixel and not for a sample; featurepipe paint "
            "writes its masks, and featurepipe info shows its figures"
        )
    return model


def load_of_pixels(path: str | PathLike[str]) -> Model:
    """As `load`, for those who want an answer for each pixel; ModelFileError where a model answers for samples."""
    model = load(path)
    if not HEADS[model.kind].of_pixels:
        raise ModelFileError(
            f"{path} is a {model.kind} model, which answers for a sample and not for each pixel; use featurepipe "
            "predict, or make a segmentation model with: featurepipe segment"
        )
    if backbones.grid_of(model.backbones[0]["spec"]) is None or len(model.backbones) > 1:
        raise ModelFileError(f"{path} is a {model.kind} model without tokens; make it again with: featurepipe segment")
    return model


class _Damaged(ValueError):
    """What does not match its digest: the end of a sentence that begins with the file's name."""


def _header(file: Any) -> dict[str, Any]:
    """The JSON of a safetensors file's metadata; empty where it has none of ours."""
    found = jsons.loads((file.metadata() or {}).get("featurepipe", "{}"), "its header")
    if not isinstance(found, dict):
        raise ValueError("its header is not an object")
    return found


def _check_version(header: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Refuse what is not a model, or cannot be read by this featurepipe."""
    kind, version = header.get("encoding-type"), header.get("encoding-version")
    if kind != ENCODING_TYPE:
        raise ModelFileError(f"{path} is not a featurepipe model (encoding-type {kind!r})")
    if jsons.version(version)[0] > jsons.version(JOINT_VERSION)[0]:
        raise FormatTooNew(f"{path} has model format {version}, this featurepipe reads {JOINT_VERSION}; upgrade it")
    if not isinstance(header.get("kind"), str):
        raise ValueError("it does not say its kind")
    if header["kind"] not in HEADS:
        raise ModelFileError(f"{path}: probe kind {header['kind']!r} is unknown to this featurepipe; upgrade it")


def _tensors(file: Any, header: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The head's tensors in their order, and ``seen``; compared with the digest that they have."""
    names, version = (*HEADS[header["kind"]].tensors, "seen"), jsons.version(header["encoding-version"])
    tensors = {key: file.get_tensor(key) for key in names}
    if "sha256" not in header and version < SEALED:
        if header["head-sha256"] != _head_digest(tensors[name] for name in names[:-1]):
            raise _Damaged("its weights do not match their digest")
        return tensors
    own = [key for key in file.keys() if not key.startswith(backbones.CARRIED)]  # noqa: SIM118  # not a dict
    others = {key: file.get_tensor(key) for key in own if key not in names}  # of a later minor version
    if header.get("sha256") != _digest(header, tensors | others):
        raise _Damaged("its content does not match its digest")
    if file.metadata().keys() != {"featurepipe"} or (others and version <= _LATEST.get(version[0], version)):
        raise _Damaged("it holds more than a model file should")
    return tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 of a header without this very digest, and of the tensors that are not the backbone's."""
    said = {key: value for key, value in header.items() if key != "sha256"}
    return sha256_json({"header": said, "tensors": sha256_arrays(tensors)})


def _model(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Model:
    """A model of what a file says, where that fits together."""
    kind, temperature, backbone = (header[key] for key in ("kind", "temperature", "backbone"))
    seen, form = tensors["seen"], HEADS[kind]
    head = [tensors[name] for name in form.tensors]
    _check_classes(header["classes"])
    jsons.check(temperature, jsons.NUMBER, "the temperature")
    if not 1e-100 <= temperature <= 1e100:
        raise ValueError(f"the temperature is {temperature}, not from 1e-100 to 1e100")
    backbones.check_description(backbone)
    card = Card.from_json(header["card"])
    jsons.check(card.selection.chosen, form.chosen, "the card.selection.chosen")
    if seen.ndim != 1 or seen.dtype != np.uint64:
        raise ValueError("the list of seen images is not a row of 64-bit numbers")
    for name, tensor in zip(form.tensors, head, strict=True):
        if tensor.dtype.kind not in "fi" or not (name in form.may_be_nan or np.isfinite(tensor).all()):
            raise ValueError("the head holds numbers that are not finite")
        if float(np.abs(tensor).max(initial=0)) > LARGEST:  # compared as float32, it would be infinite
            raise ValueError(f"the head holds numbers beyond {LARGEST:g}, with which no scores can be computed")
    estimator = _restore(kind, np.array(header["classes"]), head, card)
    return Model(kind, estimator, float(temperature), backbone, seen, card)


def _check_classes(classes: Any) -> None:
    """Raise ValueError unless these are classes: different ones, of one type that JSON gives back as it was."""
    if not isinstance(classes, list) or not classes:
        raise ValueError("classes are not a list")
    types = {type(label) for label in classes}
    if len(types) != 1 or not types <= {str, int, float, bool}:
        raise ValueError("classes are neither all text nor all numbers")
    if len({*classes}) != len(classes):
        raise ValueError("a class occurs twice")
    if np.array(classes).tolist() != classes:
        raise ValueError("a class ends in a NUL character or is a number beyond 64 bits, and would be read as another")


@guarded
def open_backbones(
    model: Model,
    path: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    **options: Any,
) -> list[backbones.Extractor]:
    """Make every backbone that a model file belongs to, and check that they are the same.

    Parameters
    ----------
    model, path
        As for `open_backbone`.
    weights : path, optional
        As for `open_backbone`, of the only backbone that has weights.
    **options
        As for `open_backbone`.

    Raises
    ------
    BackboneError, FingerprintMismatch, WeightsUnavailable, DependencyMissing
        As for `open_backbone`.
    ModelFileError
        Weights are given, and not exactly one of the backbones has any; or their widths do not fit the head.
    """
    of_files = [one for one in model.backbones if one["spec"]["weights"] is not None]
    if weights is not None and len(model.backbones) > 1 and len(of_files) != 1:
        places = ", ".join(str(one["source"]["weights"] or one["name"]) for one in of_files)
        raise ModelFileError(f"--weights is for one backbone, and {path} has weights of {len(of_files)}: {places}")
    opened = []
    for one in model.backbones:
        mine = weights if len(model.backbones) == 1 or one in of_files else None
        who = replace(model, backbone=one)
        opened.append(open_backbone(who, path, weights=mine, **options))
    check_width(model, sum(backbones.feature_width(one.spec, one.width) for one in opened), path)
    return opened


@guarded
def open_backbone(
    model: Model,
    path: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> backbones.Extractor:
    """Make the backbone that a model file belongs to, and check that it is the same.

    Parameters
    ----------
    model : Model
    path : path
        The model's file; the weights are taken from it if it holds them.
    weights : path, optional
        Path of the backbone's weights, if they have moved.
    device : str
    trust : bool
        Trust what the file says about its backbone; see `featurepipe.backbones.trust`.
    note : callable
        Hears a line before weights may be downloaded.

    Raises
    ------
    BackboneError
        The file asks for more than it may.
    FingerprintMismatch
        The weights, or something else that decides a vector, differ.
    WeightsUnavailable
        The weights cannot be found.
    """
    source: Mapping[str, Any] = model.backbone["source"]
    if weights is None and carries_backbone(path):
        weights, source = path, {**source, "random_seed": None}
    made = backbones.recreate(
        model.backbone["spec"], source, weights=weights, device=device, trust=trust, who=str(path), note=note
    )
    return replace(made, name=model.backbone["name"])  # a file's own weights know their architecture only


def portable(extractor: backbones.Extractor) -> torch.nn.Module | None:
    """What a model file carries of a backbone; None where its name is enough.

    Raises
    ------
    ModelFileError
        No file can hold it.
    """
    if not isinstance(extractor, backbones.Portable):
        raise ModelFileError(f"{extractor.name} cannot be stored in a model file; leave out --include-backbone")
    return extractor.module


def check_width(model: Model, width: int, path: str | PathLike[str]) -> None:
    """Raise ModelFileError unless a model takes embeddings of that width, which its backbone gives."""
    wanted = model.estimator.n_features_in_
    if wanted != width:
        raise ModelFileError(
            f"{path}: its head takes embeddings of {wanted} numbers, and its backbone gives {width}; make it again"
        )


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as the file takes it: on the CPU, in float32 if it is of floats, in the plain layout in memory."""
    tensor = tensor.cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()


def _head_digest(head: Iterable[np.ndarray]) -> str:
    return sha256_bytes(b"".join(tensor.tobytes() for tensor in head))


def carries_backbone(path: str | PathLike[str]) -> bool:
    """Whether a model file holds the weights of its backbone, too."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return any(key.startswith(backbones.CARRIED) for key in file.keys())  # noqa: SIM118  # not a dict


def _dump(model: Model) -> dict[str, np.ndarray]:
    """The head's tensors by their names."""
    head = HEADS[model.kind]
    return dict(zip(head.tensors, map(np.ascontiguousarray, head.dump(model.estimator)), strict=True))


def _restore(kind: str, classes: np.ndarray, head: Sequence[np.ndarray], card: Card) -> Any:
    """A scikit-learn estimator as if it had been fitted here."""
    return HEADS[kind].restore(classes, head, card.selection.chosen, card.get("seed", 0))
