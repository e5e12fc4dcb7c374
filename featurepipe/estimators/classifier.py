"""`TransferClassifier`: images, sounds, texts or videos → classes, by a probe on a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from featurepipe import advice, backbones, extraction, finetuning, models, probes
from featurepipe.cards import Card, Selection
from featurepipe.errors import FinetuningError, ModelFileError, ProbeError
from featurepipe.estimators.extractor import FeatureExtractor, described_extractor, make_extractor
from featurepipe.estimators.labels import check_groups, check_labelled
from featurepipe.estimators.rows import keys_of_files, sample_tags
from featurepipe.estimators.tuner import FineTuner
from featurepipe.stores import Pending
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import names

STRATEGIES = ("probe", "auto")
MEASURED = 5000  # images: of more, advice would take minutes


class TransferClassifier(ClassifierMixin, BaseEstimator):
    """Classify images, sounds, texts or videos with a probe on a frozen pretrained backbone.

    What X may hold is said at `featurepipe.estimators`.

    Parameters
    ----------
    backbone : str or FeatureExtractor, optional
        Name of a backbone, or an extractor for full control.
    weights : path, optional
        See `FeatureExtractor`; only with a name.
    kind : {'logistic', 'ridge', 'svm', 'lda', 'centroid', 'knn', 'mlp'}
        The probe: logistic regression, ridge classifier, linear SVM, linear discriminant analysis, nearest class mean,
        nearest neighbours, or a network with one hidden layer; see `featurepipe.probes`.
    value : float, optional
        The kind's strength (C, alpha, …); None chooses it by cross-validation inside the training data.
    store : path, optional
        Directory that keeps embeddings; only with a name.
    probe_device : str
        Device that fits a logistic or svm probe; see `featurepipe.probes.fit`. The network's own device is the
        extractor's, and tuning fits its probes on the CPU. Never run on a GPU.
    strategy : {'probe', 'auto'}
        ``auto`` asks `featurepipe.advice` whether tuning is expected to pay, and if so promotes the probe. Only
        networks on images can be tuned.
    seed : int
        Seed for the folds.
    medium : str, optional
        What X holds: ``image``, ``sound``, ``text`` or ``video``; by default what the backbone was made for. Only with
        a name.
    sample_rate : int, optional
        Samples per second of X, where it holds arrays of sound; only with a name.
    verbose : bool, optional
        None shows a progress bar for work of more than two seconds in a terminal or a notebook, and nothing where
        stderr is a file or a pipe. True shows it everywhere, with lines of information. False shows nothing.

    Attributes
    ----------
    advice_ : dict
        With ``auto``: see `featurepipe.advice.decide`.
    classes_ : ndarray
    probe_ : featurepipe.probes.Probe
        ``probe_.estimator`` is a scikit-learn estimator for embeddings.
    extractor_ : FeatureExtractor
    tuner_ : FineTuner or None
        The tuned network that predicts instead of the probe, after a promotion.
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
        probe_device: str = "cpu",
        strategy: str = "probe",
        seed: int = 0,
        medium: str | None = None,
        sample_rate: float | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.kind = kind
        self.value = value
        self.store = store
        self.probe_device = probe_device
        self.strategy = strategy
        self.seed = seed
        self.medium = medium
        self.sample_rate = sample_rate
        self.verbose = verbose

    @guarded
    def fit(self, X: Sequence[Any], y: Sequence[Any], groups: Sequence[object] | None = None) -> TransferClassifier:
        """Embed the samples and train the probe.

        Parameters
        ----------
        X : sequence of samples, shape (n,)
        y : sequence, shape (n,)
            Classes.
        groups : sequence, shape (n,), optional
            The group of each sample, such as a patient. No fold divides a group.

        Raises
        ------
        SampleError
            A sample cannot be read (`ImageError`, `SoundError`, …).
        ProbeError
            There are fewer than two classes, the kind is unknown, the device cannot be used, or there are not n groups.
        ValueError
            X is not a list of samples, or `weights`, `store`, `medium` or `sample_rate` is given together with a
            FeatureExtractor.
        """
        self._check()
        options: dict[str, Any] = {"weights": self.weights, "store": self.store, "verbose": self.verbose}
        options |= {"medium": self.medium, "sample_rate": self.sample_rate}
        self.extractor_ = make_extractor(self.backbone, **options).fit(X)
        X = self.extractor_.rows(X)
        labels = check_labelled(X, y)
        together = check_groups(X, groups)
        probes.candidates_of(self.kind, self.value, len(labels))  # a value that cannot be is found before the embedding
        items = self.extractor_.items(X)
        features = self.extractor_.embed(items)  # (n, D)
        how: dict[str, Any] = {"value": self.value, "seed": self.seed, "device": self.probe_device, "groups": together}
        self.probe_ = probes.fit(self.kind, features, labels, **how)
        self.classes_ = self.probe_.classes
        self.seen_ = keys_of_files(items)
        self.tuner_ = None
        if self.strategy == "auto":
            self.advice_ = self._advise(X, features, labels, together)
            if self.advice_["tune"] is not None and self.kind in finetuning.LINEAR:
                tuner = self._promote(items, labels, features, together, tune=self.advice_["tune"])
                self.tuner_ = tuner if tuner.promoted_ else None
        return self

    def _check(self) -> None:
        """Raise ProbeError for parameters that could be found wrong only after minutes of embedding."""
        if self.strategy not in STRATEGIES:
            raise ProbeError(f"strategy {self.strategy!r} is unknown; use {', '.join(STRATEGIES)}")
        probes.check_kind(self.kind, None, self.probe_device)
        if probes.KINDS[self.kind].reads != "vectors":
            raise ProbeError(
                f"a TransferClassifier keeps vectors, and {self.kind} probes read tokens; use featurepipe extract "
                "--tokens and featurepipe probe, or featurepipe.probes.fit"
            )

    def _advise(
        self, X: Sequence[Any], features: np.ndarray, y: np.ndarray, groups: np.ndarray | None
    ) -> dict[str, Any]:
        """What `featurepipe.advice` says of samples and their embeddings (n, D); of many, a draw is measured."""
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(y))[:MEASURED])
        extractor = self.extractor_.identity()
        some = [X[i] for i in rows]
        simple = backbones.SIMPLE[extractor.transform.medium]
        baselines = {names.HANDMADE[name]: self._baseline(name).fit_transform(some) for name in simple}  # (m, D'), each
        options: dict[str, Any] = {"baselines": baselines, "labels": len(y), "seed": self.seed}
        options["groups"] = None if groups is None else groups[rows]
        measured = advice.measure({extractor.spec["layer"]: features[rows]}, y[rows], **options)
        masked = advice.is_masked(extractor.name, extractor.source["name"])
        tunable = backbones.is_tunable(extractor.spec)
        return advice.decide({**advice.count(y), **measured, "masked": masked, "tunable": tunable})

    def _baseline(self, name: str) -> FeatureExtractor:
        """An extractor of a hand-made descriptor for the same X."""
        return FeatureExtractor(name, sample_rate=self.extractor_.sample_rate, verbose=self.verbose)

    @guarded
    def predict(self, X: Sequence[Any]) -> np.ndarray:
        """Class of each sample."""
        proba = self.predict_proba(X)  # (n, K)
        return self.classes_[proba.argmax(axis=1)]

    @guarded
    def predict_proba(self, X: Sequence[Any]) -> np.ndarray:
        """Class probabilities, shape (n, classes), columns as in ``classes_``."""
        check_is_fitted(self, "probe_")
        if self.tuner_ is not None:
            return self.tuner_.predict_proba(X)
        return self.probe_.predict_proba(self.extractor_.embed(self.extractor_.items(X)))

    @guarded
    def promote(
        self,
        X: Sequence[Any],
        y: Sequence[Any],
        groups: Sequence[object] | None = None,
        *,
        tune: str = "all",
        verbose: bool | None = None,
        **recipe: Any,
    ) -> FineTuner:
        """Tune the network from where this probe stopped.

        Parameters
        ----------
        X, y, groups
            The images, labels and groups that the classifier was fitted on.
        tune : str
            How deep to tune: ``head``, ``last-N`` blocks, ``stageK+`` or ``all``.
        verbose : bool, optional
            As for the classifier; None takes the classifier's setting.
        **recipe
            Other fields of `featurepipe.finetuning.Recipe`.

        Returns
        -------
        FineTuner
            Fitted. If the tuned network is not expected to be better than the probe, it predicts as the probe does.

        Raises
        ------
        FinetuningError
            The kind is not linear, or a reason given at `FineTuner.fit`.
        """
        check_is_fitted(self, "probe_")
        X = self.extractor_.rows(X)
        labels = check_labelled(X, y)
        if missing := set(self.classes_.tolist()) ^ set(labels.tolist()):
            raise FinetuningError(
                f"class {missing.pop()!r} is in only one of y and the probe; give what it was fitted on"
            )
        items = self.extractor_.items(X)
        features = self.extractor_.embed(items)  # (n, D)
        return self._promote(items, labels, features, check_groups(X, groups), tune, verbose, **recipe)

    def _promote(
        self,
        items: Sequence[Pending],
        y: np.ndarray,
        features: np.ndarray,
        groups: np.ndarray | None,
        tune: str,
        verbose: bool | None = None,
        **recipe: Any,
    ) -> FineTuner:
        """Tune from the probe, on images whose embeddings are `features` (n, D)."""
        options: dict[str, Any] = {"weights": self.weights, "store": self.store, "seed": self.seed}
        told = self.verbose if verbose is None else verbose
        tuner = FineTuner(self.backbone, tune=tune, recipe=recipe, verbose=told, **options)
        return tuner.tune_from(self.probe_, items, y, features, self.extractor_, groups=groups)

    @guarded
    def save(self, path: str | PathLike[str], *, include_backbone: bool = False, force: bool = False) -> None:
        """Write a model file that `load`, ``featurepipe predict`` and ``featurepipe.evaluate`` take.

        The file lists the files that it was trained on, and `evaluate` leaves them out. PIL images and arrays of pixels
        are not listed.

        Parameters
        ----------
        path : path
            Ends in ``.safetensors``.
        include_backbone : bool
            Store the network's weights in the file, which then needs no other. The file of a tuned network always has
            them.
        force : bool
            Also replace a file that featurepipe did not write. The backbone's own weights are never replaced.

        Raises
        ------
        OutputError
            A file exists that must not be replaced.
        """
        check_is_fitted(self, "probe_")
        if self.tuner_ is not None:
            self.tuner_.save(path, force=force)
            return
        extractor = self.extractor_.identity()
        models.check_output(Path(path), [self.weights, extractor.source["weights"]], force=force)
        selection = Selection.made(self.probe_.selected_on, self.probe_.chosen, self.probe_.path)
        identity = {"name": extractor.name, "fingerprint": extractor.fingerprint}
        model = models.Model(
            kind=self.probe_.kind,
            estimator=self.probe_.estimator,
            temperature=self.probe_.temperature,
            backbone={**identity, "spec": extractor.spec, "source": extractor.source},
            seen=self.seen_,
            card=Card(
                selection=selection,
                licence=models.licence_of(extractor.source, extractor.spec),
                seed=self.seed,
                versions=extraction.versions(),
            ),
        )
        module = models.portable(self.extractor_.network()) if include_backbone else None
        models.save(path, model, module=module)

    @classmethod
    @guarded
    def load(
        cls, path: str | PathLike[str], *, weights: str | PathLike[str] | None = None, trust: bool = False
    ) -> TransferClassifier:
        """Make a classifier from a model file; it predicts as the one that was saved.

        Parameters
        ----------
        path : path
            Model file of a probe or a tuned network, from here or from the command line.
        weights : path, optional
            Where the backbone's weights are now, if they have moved; see `FeatureExtractor`.
        trust : bool
            Trust what the file says about its backbone; see `featurepipe.backbones.trust`.

        Returns
        -------
        TransferClassifier
            Fitted, with a probe for embeddings of ``extractor_``, which is a tuned network where the file holds one.
            Its `backbone` is a FeatureExtractor with all that the file says about it.

        Raises
        ------
        ModelFileError
            The file is missing, damaged, not a model file, or holds a multi-label probe.
        FingerprintMismatch, WeightsUnavailable
            Raised at the first prediction: the backbone's weights are missing or have changed.
        """
        model = models.load(path)
        if model.is_multi_label:
            raise ModelFileError(
                f"{path} gives each sample a set of labels, but a TransferClassifier one; use featurepipe.predict"
            )
        if any(backbones.grid_of(one["spec"]) for one in model.backbones):
            raise ModelFileError(f"{path} reads tokens, but a TransferClassifier vectors; use featurepipe.predict")
        extractor = described_extractor(model, path, weights, trust)
        selection = model.card.selection
        assert not isinstance(selection.chosen, dict)  # which is of sets of labels
        made = cls(extractor, kind=model.kind, value=selection.chosen, seed=model.card.get("seed", 0))
        made.extractor_ = extractor
        how: dict[str, Any] = {
            "chosen": selection.chosen,
            "selected_on": selection.on,
            "path": selection["path"],
        }
        made.probe_ = probes.Probe(model.kind, model.estimator, model.temperature, **how)
        made.classes_, made.seen_, made.tuner_ = model.classes, model.seen, None
        return made

    def __sklearn_tags__(self) -> Any:
        return sample_tags(super().__sklearn_tags__())
