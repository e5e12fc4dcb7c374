"""scikit-learn faces: `FeatureExtractor` (images → embeddings) and `TransferClassifier` (images → classes).

An image is a path, a PIL image or a uint8 array of shape (H, W) or (H, W, 3); X is a list of them, or one array
(n, H, W) or (n, H, W, 3). Networks are made when they are first needed and stay out of pickles and clones.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from featurepipe import backbones, extraction, matrices, models, probes
from featurepipe.digests import sha256_bytes, sha256_file
from featurepipe.errors import FingerprintMismatch, ImageError
from featurepipe.images import convert, from_array
from featurepipe.stores import Pending, Store, Writer


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn images into embeddings of a frozen pretrained backbone.

    Parameters
    ----------
    backbone : str or path, optional
        timm name, ``'bundled'`` (the default), ``'pixels'``, ``'hog'``, …, or a model file with its backbone; see
        `featurepipe.backbones.create`, which explains `weights`, `arguments`, `random_weights`, `seed`, `layer`,
        `pooling`, `precision` and `device` too.
    image_transform : dict, optional
        Overrides of the backbone's transform, such as ``{"crop_pct": 1.0}``.
    store : path, optional
        Directory that keeps embeddings for the next time; the command line's stores will do.
    batch_size, workers : int
        Images per forward pass (None: chosen here); threads (None: one per core).

    Attributes
    ----------
    fingerprint_ : str
        Digest of everything that decides a vector.
    precision_ : str
        What ``'auto'`` came to where it was fitted; kept on machines that would choose otherwise.
    n_features_out_ : int
        Length of one embedding.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    >>> pipeline = make_pipeline(FeatureExtractor(), LogisticRegression())
    >>> pipeline.fit(images, [0, 1, 0, 1, 0, 1]).predict(images).shape
    (6,)
    """

    def __init__(
        self,
        backbone: str | PathLike[str] | None = None,
        *,
        weights: str | PathLike[str] | None = None,
        arguments: dict[str, Any] | None = None,
        random_weights: bool = False,
        seed: int = 0,
        layer: str = backbones.PENULTIMATE,
        pooling: str | None = None,
        precision: str = "auto",
        device: str = "auto",
        image_transform: dict[str, Any] | None = None,
        store: str | PathLike[str] | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.arguments = arguments
        self.random_weights = random_weights
        self.seed = seed
        self.layer = layer
        self.pooling = pooling
        self.precision = precision
        self.device = device
        self.image_transform = image_transform
        self.store = store
        self.batch_size = batch_size
        self.workers = workers

    def fit(self, X: Sequence[Any], y: Any = None) -> FeatureExtractor:
        """Make the backbone and check that X holds images; nothing is learned from them.

        Raises
        ------
        ValueError
            X is not a list or array of images.
        BackboneError, WeightsUnavailable
            See `featurepipe.backbones.create`.
        """
        _check_images(X)
        self._made = None
        for name in ("fingerprint_", "precision_"):  # of an earlier fit
            vars(self).pop(name, None)
        extractor = self._extractor()
        self.fingerprint_, self.precision_ = extractor.fingerprint, extractor.spec["precision"]
        self.n_features_out_ = self._n_features_out = extractor.width
        return self

    def transform(self, X: Sequence[Any]) -> np.ndarray:
        """Embed images; those that the store holds are not computed again.

        Returns
        -------
        ndarray of float32, shape (n, n_features_out_)

        Raises
        ------
        ImageError
            An image cannot be read: unlike a pipeline stage, which would leave it out, rows must stay aligned.
        """
        check_is_fitted(self, "fingerprint_")
        extractor = self._extractor()
        items = [_pending(item, i, extractor.transform) for i, item in enumerate(_check_images(X))]
        distinct = {item.digest: item for item in items}
        if self.store is None:
            memory = extraction.Memory()
            self._fill(list(distinct.values()), extractor, memory, items)
            return np.stack([memory.vectors[item.digest] for item in items])
        store = Store.create(self.store, wait=True)
        entry = store.entry(extractor)
        if not distinct.keys() <= entry.places().keys():  # only then does it have to be locked
            with store.lock(wait=True):  # parallel cross-validation shares a store
                entry = store.entry(extractor)
                places = entry.places()
                todo = [item for digest, item in distinct.items() if digest not in places]
                writer = Writer(entry, extraction.provenance(extractor, self.batch_size), extraction.ROWS_PER_SHARD)
                self._fill(todo, extractor, writer, items)
            entry = store.entry(extractor)
        places = entry.places()
        return matrices.gather(entry, [places[item.digest] for item in items])

    def _fill(
        self, todo: list[Pending], extractor: backbones.Extractor, sink: extraction.Sink, items: list[Pending]
    ) -> None:
        outcome = extraction.fill(todo, extractor, sink, batch_size=self.batch_size, workers=self.workers)
        if outcome.rejects:
            index, item = next((i, item) for i, item in enumerate(items) if item.digest in outcome.rejects)
            where = f" ({item.source})" if isinstance(item.source, Path) else ""
            raise ImageError(f"image {index}{where}: {outcome.rejects[item.digest]}; leave it out of X")

    def _extractor(self) -> backbones.Extractor:
        """The backbone, made on first use."""
        if getattr(self, "_made", None) is None:
            made = backbones.create(
                self.backbone,
                weights=self.weights,
                arguments=self.arguments,
                random_weights=self.random_weights,
                seed=self.seed,
                layer=self.layer,
                pooling=self.pooling,
                precision=getattr(self, "precision_", "auto") if self.precision == "auto" else self.precision,
                device=self.device,
                transform=self.image_transform,
            )
            known = getattr(self, "fingerprint_", made.fingerprint)
            if known != made.fingerprint:
                raise FingerprintMismatch(
                    f"this estimator was fitted with backbone {known[:8]}, its parameters now make "
                    f"{made.fingerprint[:8]}; fit it again"
                )
            self._made = made
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_made"}

    def __sklearn_tags__(self) -> Any:
        tags = _image_tags(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32, whatever the images are
        return tags


class TransferClassifier(ClassifierMixin, BaseEstimator):
    """Classify images with a probe on a frozen pretrained backbone.

    Parameters
    ----------
    backbone : str or FeatureExtractor, optional
        A name, or an extractor for full control.
    weights : path, optional
        See `FeatureExtractor`; only with a name.
    kind : {'logistic', 'ridge', 'svm', 'lda', 'centroid', 'knn', 'mlp'}
        See `featurepipe.probes`.
    value : float, optional
        The kind's strength (C, alpha, …); None chooses it by cross-validation inside the training data.
    store : path, optional
        Directory that keeps embeddings; only with a name.
    seed : int
        Of the folds.

    Attributes
    ----------
    classes_ : ndarray
    probe_ : featurepipe.probes.Probe
        ``probe_.estimator`` is a scikit-learn estimator for embeddings.
    extractor_ : FeatureExtractor
    seen_ : ndarray of uint64
        The files trained on; see `featurepipe.models.Model`.

    Examples
    --------
    >>> images = np.zeros((6, 16, 16), np.uint8)
    >>> images[3:] = 255
    >>> model = TransferClassifier().fit(images, ["dark"] * 3 + ["bright"] * 3)
    >>> model.predict(images[[0, 5]]).tolist()
    ['dark', 'bright']
    """

    def __init__(
        self,
        backbone: str | FeatureExtractor | None = None,
        *,
        weights: str | PathLike[str] | None = None,
        kind: str = "logistic",
        value: float | None = None,
        store: str | PathLike[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.kind = kind
        self.value = value
        self.store = store
        self.seed = seed

    def fit(self, X: Sequence[Any], y: Sequence[Any]) -> TransferClassifier:
        """Embed the images and train the probe.

        Raises
        ------
        ImageError
            An image cannot be read.
        ProbeError
            Fewer than two classes, or an unknown kind.
        ValueError
            X is no list of images, or `weights` or `store` stands beside a FeatureExtractor.
        """
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        check_consistent_length(_check_images(X), y)
        if isinstance(self.backbone, FeatureExtractor):
            if self.weights is not None or self.store is not None:
                raise ValueError("weights and store belong to the FeatureExtractor that is given as backbone")
            self.extractor_ = clone(self.backbone)
        else:
            self.extractor_ = FeatureExtractor(self.backbone, weights=self.weights, store=self.store)
        features = self.extractor_.fit_transform(X)  # (n, D)
        self.probe_ = probes.fit(self.kind, features, y, value=self.value, seed=self.seed)
        self.classes_ = self.probe_.classes
        self.seen_ = models.digest_keys([sha256_file(item) for item in X if isinstance(item, (str, PathLike))])
        return self

    def predict(self, X: Sequence[Any]) -> np.ndarray:
        """Class of each image."""
        proba = self.predict_proba(X)  # (n, K)
        return self.classes_[proba.argmax(axis=1)]

    def predict_proba(self, X: Sequence[Any]) -> np.ndarray:
        """Class probabilities, shape (n, classes), columns as in ``classes_``."""
        check_is_fitted(self, "probe_")
        return self.probe_.predict_proba(self.extractor_.transform(X))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a model file that ``featurepipe predict`` and ``featurepipe.evaluate`` take.

        It knows the files it was trained on, and `evaluate` leaves them out; not so PIL images and arrays.
        """
        check_is_fitted(self, "probe_")
        extractor = self.extractor_._extractor()
        selection = {"on": self.probe_.selected_on, "chosen": self.probe_.chosen, "path": self.probe_.path}
        identity = {"name": extractor.name, "fingerprint": extractor.fingerprint}
        model = models.Model(
            kind=self.probe_.kind,
            estimator=self.probe_.estimator,
            temperature=self.probe_.temperature,
            backbone={**identity, "spec": extractor.spec, "source": extractor.source},
            seen=self.seen_,
            card={"selection": selection, "seed": self.seed, "versions": extraction.versions()},
        )
        models.save(path, model)

    def __sklearn_tags__(self) -> Any:
        return _image_tags(super().__sklearn_tags__())


def _check_images(X: Any) -> Sequence[Any]:
    """X itself, if it is a non-empty sequence of things that can be images."""
    if isinstance(X, (str, bytes, PathLike, Image.Image)):
        raise ValueError(f"X is a list of images; wrap the single {type(X).__name__} in a list")
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OU" and (X.dtype != np.uint8 or X.ndim not in (3, 4)):
        raise ValueError(f"an array of images is uint8 of shape (n, H, W[, 3]); got {X.dtype} {X.shape}")
    if not hasattr(X, "__len__") or hasattr(X, "toarray"):  # a sparse matrix has no length either
        raise ValueError(f"X is a list of images; got {type(X).__name__}")
    if not len(X):
        raise ValueError("X holds 0 samples; at least 1 image is needed")
    return X.tolist() if isinstance(X, np.ndarray) and X.dtype.kind in "OU" else X


def _pending(item: Any, index: int, transform: backbones.Transform) -> Pending:
    """One image with the digest of its content; files keep the digest of their bytes, so that stores agree."""
    try:
        if isinstance(item, (str, PathLike)):
            return Pending(sha256_file(item), Path(item))
        image = item if isinstance(item, Image.Image) else from_array(item)
        image = convert(image, transform.input_size[0])
    except (OSError, ImageError) as error:
        raise ImageError(f"image {index} ({item if isinstance(item, (str, PathLike)) else ''}): {error}") from error
    header = f"{image.mode} {image.width}x{image.height}\n".encode()
    return Pending(sha256_bytes(header + image.tobytes()), image)


def _image_tags(tags: Any) -> Any:
    """Input is images, or text that names their files; no 2-D array."""
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags
