"""`FeatureExtractor`: images → embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from featurepipe import backbones, extraction, matrices
from featurepipe.errors import FingerprintMismatch, ImageError
from featurepipe.estimators.images import check_images, image_tags, pending
from featurepipe.stores import Pending, Store, Writer
from featurepipe.surroundings import guarded


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

    @guarded
    def fit(self, X: Sequence[Any], y: Any = None) -> FeatureExtractor:
        """Make the backbone and check that X holds images; nothing is learned from them.

        Raises
        ------
        ValueError
            X is not a list or array of images.
        BackboneError, WeightsUnavailable
            See `featurepipe.backbones.create`.
        """
        check_images(X)
        self._made = None
        for name in ("fingerprint_", "precision_"):  # of an earlier fit
            vars(self).pop(name, None)
        extractor = self.network()
        self.fingerprint_, self.precision_ = extractor.fingerprint, extractor.spec["precision"]
        self.n_features_out_ = self._n_features_out = extractor.width
        return self

    @guarded
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
        extractor = self.network()
        items = [pending(item, i, extractor.transform) for i, item in enumerate(check_images(X))]
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

    @guarded
    def network(self) -> backbones.Extractor:
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
        tags = image_tags(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32, whatever the images are
        return tags


def make_extractor(
    backbone: str | FeatureExtractor | None, weights: str | PathLike[str] | None, store: str | PathLike[str] | None
) -> FeatureExtractor:
    """An extractor of a backbone by name, or an unfitted copy of the one that is given."""
    if not isinstance(backbone, FeatureExtractor):
        return FeatureExtractor(backbone, weights=weights, store=store)
    if weights is not None or store is not None:
        raise ValueError("weights and store belong to the FeatureExtractor that is given as backbone")
    return clone(backbone).set_output(transform="default")  # arrays, whatever the notebook wants to see
