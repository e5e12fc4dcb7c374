"""`FeatureExtractor`: images, sounds, texts or videos → embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone

from featurepipe import backbones, extraction, matrices, models
from featurepipe.errors import FingerprintMismatch
from featurepipe.estimators.media import listing_of
from featurepipe.estimators.rows import Listing, sample_tags
from featurepipe.listeners import Bars, Listener
from featurepipe.stores import Pending, Store, Writer
from featurepipe.surroundings import guarded

PLACES = ("backbone", "weights", "store")  # parameters that may be relative paths
SCHEMES = ("local-dir:", "file:")  # before the path of timm's folder with a network, or of a model file


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn images, sounds, texts or videos into embeddings of a frozen pretrained backbone.

    What X may hold is said at `featurepipe.estimators`. Nothing is learned from it, so `transform` may be called
    without `fit`. The networks used last stay in memory for the next estimator of this process
    (`featurepipe.backbones.forget` frees them). No network is made if the store holds all that is asked for.

    Parameters
    ----------
    backbone : str, path or torch.nn.Module, optional
        timm name, ``'bundled'``, ``'pixels'``, ``'hog'``, …, a model file with its backbone, or a module; see
        `featurepipe.backbones.create`, which says what the default is. It explains `weights`, `arguments`,
        `random_weights`, `seed`, `layer`, `pooling`, `precision` and `device`, too.
    image_transform : dict, optional
        Overrides of the backbone's transform, such as ``{"crop_pct": 1.0}``, or of videos ``{"clips": 4}``.
    medium : str, optional
        What X holds: ``image``, ``sound``, ``text`` or ``video``; by default what the backbone was made for.
    sample_rate : int, optional
        Samples per second of X, where it holds arrays of sound.
    trust : bool
        Trust what a model file says about its backbone; see `featurepipe.backbones.trust`.
    store : path, optional
        Directory that keeps embeddings for the next time. Stores of the command line work too.
    batch_size, workers : int
        Samples per forward pass (None: chosen automatically); threads (None: one per core).
    verbose : bool, optional
        None shows a progress bar for work of more than two seconds in a terminal or a notebook, and nothing where
        stderr is a file or a pipe. True shows it everywhere, with lines of information. False shows nothing.

    Attributes
    ----------
    fingerprint_ : str
        Digest of everything that decides a vector.
    precision_ : str
        Precision that ``'auto'`` chose when it was fitted; kept on machines that would choose another.
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
        medium: str | None = None,
        sample_rate: float | None = None,
        trust: bool = False,
        store: str | PathLike[str] | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        verbose: bool | None = None,
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
        self.medium = medium
        self.sample_rate = sample_rate
        self.trust = trust
        self.store = store
        self.batch_size = batch_size
        self.workers = workers
        self.verbose = verbose

    @guarded
    def fit(self, X: Sequence[Any], y: Any = None) -> FeatureExtractor:
        """Find out what the parameters mean and check that X holds samples; nothing is learned from them.

        Raises
        ------
        ValueError
            X is not a list or array of what the backbone embeds.
        BackboneError, WeightsUnavailable
            See `featurepipe.backbones.create`.
        """
        for name in ("_opened", "_identity", "fingerprint_", "precision_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        self._places = {name: (getattr(self, name), _absolute(name, getattr(self, name))) for name in PLACES}
        self.adopt(backbones.identify(**self._options()))
        self.rows(X)
        return self

    @guarded
    def adopt(self, opened: backbones.Extractor | backbones.Identity) -> None:
        """Become fitted to a backbone that the parameters make, or to what is known of it."""
        self._opened = None if isinstance(opened, backbones.Identity) else opened
        self._identity = backbones.Identity.of(opened)
        self.fingerprint_, self.precision_ = opened.fingerprint, opened.spec["precision"]
        self.n_features_out_ = self._n_features_out = opened.width

    @guarded
    def transform(self, X: Sequence[Any]) -> np.ndarray:
        """Embed samples; those that the store holds are not computed again.

        Returns
        -------
        ndarray of float32, shape (n, ``n_features_out_``)

        Raises
        ------
        SampleError
            One cannot be read (`ImageError`, `SoundError`, …): unlike `extract`, which would leave it out, rows must
            stay aligned.
        """
        able = self if hasattr(self, "fingerprint_") else clone(self)  # which finds out, and leaves this one as it is
        return able.embed(able.items(X))

    @guarded
    def listing(self) -> Listing:
        """How rows of X become samples."""
        return listing_of(self.identity().transform, getattr(self, "sample_rate", None), self.identity().name)

    @guarded
    def rows(self, X: Any) -> Sequence[Any]:
        """X as a sequence of rows; ValueError where it is none."""
        return self.listing().rows(X)

    @guarded
    def items(self, X: Any) -> list[Pending]:
        """Each row of X with the digest of its content."""
        return self.listing().listed(X)

    @guarded
    def embed(self, items: Sequence[Pending]) -> np.ndarray:
        """What `transform` gives of what `items` gives; a plain array, whatever scikit-learn is set to."""
        distinct, settings = {item.digest: item for item in items}, extraction.Settings(self.batch_size, self.workers)
        if self.store is None:
            return embedded(items, self.network(), Bars(self.verbose), settings)
        store, identity = Store.create(self._place("store"), wait=True), self.identity()
        entry = store.entry(identity)
        if not distinct.keys() <= entry.places().keys():  # only then does it have to be locked
            extractor = self.network()
            with store.lock(wait=True):  # parallel cross-validation shares a store
                entry = store.entry(extractor)
                places = entry.places()
                todo = [item for digest, item in distinct.items() if digest not in places]
                writer = Writer(entry, extraction.provenance(extractor, self.batch_size), extraction.ROWS_PER_SHARD)
                fill(todo, extractor, writer, items, Bars(self.verbose), settings)
            entry = store.entry(extractor)
        places = entry.places()
        return matrices.gather(entry, [places[item.digest] for item in items])

    @guarded
    def identity(self) -> backbones.Identity:
        """What the backbone is; it is made only where this process has not found that out yet."""
        if getattr(self, "_identity", None) is None:  # of an earlier featurepipe's pickle, or not fitted
            self._identity = backbones.Identity.of(self._same(backbones.identify(**self._options())))
        return self._identity

    @guarded
    def network(self) -> backbones.Extractor:
        """The backbone, made on first use; others of this process may use it too, so do not change it."""
        opened = getattr(self, "_opened", None)
        if opened is None:
            opened = self._opened = self._same(backbones.fetch(**self._options()))
        return opened

    def _same(self, opened: Any) -> Any:
        """A backbone, if it is the one that this was fitted with."""
        known = getattr(self, "fingerprint_", opened.fingerprint)
        if known != opened.fingerprint:
            raise FingerprintMismatch(
                f"this estimator was fitted with backbone {known[:8]}, its parameters now make "
                f"{opened.fingerprint[:8]}; fit it again"
            )
        return opened

    def _options(self) -> dict[str, Any]:
        """The parameters as `featurepipe.backbones.create` takes them."""
        return {
            "name": self._place("backbone"),
            "weights": self._place("weights"),
            "arguments": self.arguments,
            "random_weights": self.random_weights,
            "seed": self.seed,
            "layer": self.layer,
            "pooling": self.pooling,
            "precision": getattr(self, "precision_", "auto") if self.precision == "auto" else self.precision,
            "device": self.device,
            "transform": self.image_transform,
            **({} if getattr(self, "medium", None) is None else {"medium": self.medium}),
            "trust": getattr(self, "trust", False),  # of an earlier featurepipe's pickle
            "download": getattr(self, "_download", True),
        }

    def _place(self, name: str) -> Any:
        """A parameter that names a file or folder: where that was when this was fitted, unless it was set since."""
        given = getattr(self, name)
        was, absolute = getattr(self, "_places", {}).get(name, (None, None))
        return absolute if given is was or given == was else given

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_opened"}

    def __sklearn_tags__(self) -> Any:
        tags = sample_tags(super().__sklearn_tags__())
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32, whatever X is
        return tags


def _absolute(name: str, given: Any) -> Any:
    """A parameter's value as it names the same place in another working directory."""
    if isinstance(given, str) and given.startswith(SCHEMES):
        scheme, _, path = given.partition(":")
        return f"{scheme}:{os.path.abspath(path)}"
    is_path = isinstance(given, (str, PathLike)) and (name != "backbone" or backbones.is_model_name(given))
    return os.path.abspath(given) if is_path else given


def embedded(
    items: Sequence[Pending],
    extractor: backbones.Extractor,
    listener: Listener,
    settings: extraction.Settings = extraction.Settings(),  # noqa: B008  # frozen
) -> np.ndarray:
    """Embeddings (n, D) of samples, copies computed once."""
    memory = extraction.Memory()
    todo = list({item.digest: item for item in items}.values())
    fill(todo, extractor, memory, items, listener, settings)
    return np.stack([memory.vectors[item.digest] for item in items])


def fill(
    todo: Sequence[Pending],
    extractor: backbones.Extractor,
    sink: extraction.Sink,
    items: Sequence[Pending],
    listener: Listener,
    settings: extraction.Settings,
) -> None:
    """Embed into a sink; a SampleError names the first of all `items` that cannot be."""
    outcome = extraction.fill(todo, extractor, sink, settings, listener=listener)
    if outcome.rejects:
        index, item = next((i, item) for i, item in enumerate(items) if item.digest in outcome.rejects)
        raise listing_of(extractor.transform, None, extractor.name).refused(index, item, outcome.rejects[item.digest])


def make_extractor(backbone: str | FeatureExtractor | None, **options: Any) -> FeatureExtractor:
    """An extractor of a backbone by name, or an unfitted copy of the one that is given, which has its own options."""
    if not isinstance(backbone, FeatureExtractor):
        return FeatureExtractor(backbone, **options)
    verbose = options.pop("verbose")
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(
            f"the backbone is a FeatureExtractor with its own {' and '.join(given)}; leave out {' and '.join(given)}"
        )
    copied = clone(backbone).set_output(transform="default")  # arrays, whatever the notebook wants to see
    return copied if verbose is None else copied.set_params(verbose=verbose)


def described_extractor(
    model: models.Model,
    path: str | PathLike[str],
    weights: str | PathLike[str] | None = None,
    trust: bool = False,
) -> FeatureExtractor:
    """The extractor of a model file's backbone, fitted and checked to be the very same."""
    models.check_single(model, path, "an estimator")
    about = model.backbone
    spec, source = about["spec"], about["source"]
    place: Path | None = None
    is_carried = weights is None and models.carries_backbone(path)
    if is_carried:  # of what it asks for, `create` asks
        options = {key: spec[key] for key in ("layer", "precision", "medium") if key in spec}
        made = FeatureExtractor(os.path.abspath(path), **options, trust=trust)
    else:
        options, place = backbones.described(spec, source, weights=weights, trust=trust, who=str(path))
        file = options.get("weights")
        options |= {"backbone": options.pop("name"), "image_transform": options.pop("transform", None)}
        made = FeatureExtractor(**{**options, "weights": os.path.abspath(file) if file else None})
        made._download = trust  # that a file names weights is no reason to ask a host for them
    with backbones.unechoed(place, str(path)):
        opened = made.network()
    backbones.check_same(opened.spec, spec)
    models.check_width(model, opened.width, path)
    made.adopt(replace(opened, name=about["name"]))  # a file's own weights know their architecture only
    return made
