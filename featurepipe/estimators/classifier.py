"""`TransferClassifier`: images, sounds, texts or videos → classes, by a probe on a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from featurepipe import advice, backbones, extraction, finetuning, manifests, models, probes
from featurepipe.cards import Card, Selection
from featurepipe.errors import FinetuningError, ModelFileError, ProbeError
from featurepipe.estimators.extractor import FeatureExtractor, described_extractor, make_extractor
from featurepipe.estimators.labels import check_groups, check_labelled
from featurepipe.estimators.looks import Shown, probe_face, tuner_face
from featurepipe.estimators.parameters import STRENGTHS, seed_of, strength, weights_of
from featurepipe.estimators.rows import keys_of_files, sample_tags
from featurepipe.estimators.tuner import FineTuner
from featurepipe.results import Face, StageResult
from featurepipe.stores import Pending
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import names

STRATEGIES = ("probe", "auto")
MEASURED = 5000  # images: of more, advice would take minutes


def _has_scores(model: TransferClassifier) -> bool:
    return model.kind in finetuning.LINEAR


def _has_neighbours(model: TransferClassifier) -> bool:
    return names.KINDS.get(model.kind) == "n_neighbors"


class TransferClassifier(ClassifierMixin, Shown):
    """Classify images, sounds, texts or videos with a probe on a frozen pretrained backbone.

    What X may hold is said at `featurepipe.estimators`.

    Parameters
    ----------
    backbone : str or FeatureExtractor, optional
        Name of a backbone, or an extractor for full control.
    weights : path, optional
        See `FeatureExtractor`; only with a name.
    kind : {'logistic', 'ridge', 'svm', 'lda', 'centroid', 'knn', 'approximate-knn', 'mlp'}
        The probe: logistic regression, ridge classifier, linear SVM, linear discriminant analysis, nearest class mean,
        nearest neighbours, or a network with one hidden layer; see `featurepipe.probes`.
    value : float, optional
        The kind's strength; None chooses it by cross-validation inside the training data.
    C, alpha, shrinkage, n_neighbors : float, optional
        The same by the kind's own name for it: C of logistic and svm, alpha of ridge and mlp, shrinkage of lda,
        n_neighbors of knn and approximate-knn.
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
    random_state : int, optional
        scikit-learn's name for `seed`; it counts where it is given. Model files record it, so it is a number.
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

    Notes
    -----
    There is no ``n_features_in_``: as with scikit-learn's vectorizers of texts, X is a list of samples and has no
    columns to count. ``extractor_.n_features_out_`` is the number of features that the probe sees.

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
        C: float | None = None,
        alpha: float | None = None,
        shrinkage: float | None = None,
        n_neighbors: float | None = None,
        store: str | PathLike[str] | None = None,
        probe_device: str = "cpu",
        strategy: str = "probe",
        seed: int = 0,
        random_state: int | None = None,
        medium: str | None = None,
        sample_rate: float | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.kind = kind
        self.value = value
        self.C = C
        self.alpha = alpha
        self.shrinkage = shrinkage
        self.n_neighbors = n_neighbors
        self.store = store
        self.probe_device = probe_device
        self.strategy = strategy
        self.seed = seed
        self.random_state = random_state
        self.medium = medium
        self.sample_rate = sample_rate
        self.verbose = verbose

    @guarded
    def fit(
        self,
        X: Sequence[Any],
        y: Sequence[Any],
        groups: Sequence[object] | None = None,
        sample_weight: Sequence[float] | None = None,
    ) -> TransferClassifier:
        """Embed the samples and train the probe.

        Parameters
        ----------
        X : sequence of samples, shape (n,)
        y : sequence, shape (n,)
            Classes.
        groups : sequence, shape (n,), optional
            The group of each sample, such as a patient. No fold divides a group.
        sample_weight : sequence of float, shape (n,), optional
            What each sample weighs, for logistic, ridge, svm and lda: 2 is exactly the sample twice, 0 leaves it out.
            Where cross-validation chooses the strength, every fit is weighted, and each held-out sample counts once.

        Raises
        ------
        SampleError
            A sample cannot be read (`ImageError`, `SoundError`, …).
        ProbeError
            There are fewer than two classes, the kind is unknown, it has no weights or no such strength, the device
            cannot be used, or there are not n groups.
        ValueError
            X is not a list of samples, or `weights`, `store`, `medium` or `sample_rate` is given together with a
            FeatureExtractor.
        """
        value, seed = self._strength(), self._seed()
        self._check(sample_weight is not None)
        options: dict[str, Any] = {"weights": self.weights, "store": self.store, "verbose": self.verbose}
        options |= {"medium": self.medium, "sample_rate": self.sample_rate}
        self.extractor_ = make_extractor(self.backbone, **options).fit(X)
        X = self.extractor_.rows(X)
        labels = check_labelled(X, y)
        together = check_groups(X, groups)
        weights = weights_of(len(labels), sample_weight)
        probes.candidates_of(self.kind, value, len(labels))  # a value that cannot be is found before the embedding
        items = self.extractor_.items(X)
        if weights is not None:
            kept = weights > 0
            items = [item for item, stays in zip(items, kept, strict=True) if stays]
            labels, weights, together = labels[kept], weights[kept], None if together is None else together[kept]
        features = self.extractor_.embed(items)  # (n, D)
        how: dict[str, Any] = {"value": value, "seed": seed, "device": self.probe_device, "groups": together}
        self.probe_ = probes.fit(self.kind, features, labels, sample_weight=weights, **how)
        self._is_weighted = weights is not None
        self.classes_ = self.probe_.classes
        self.seen_ = keys_of_files(items)
        self.tuner_ = None
        if self.strategy == "auto":
            self.advice_ = StageResult(self._advise(X, features, labels, together), "advise")
            if self.advice_["tune"] is not None and self.kind in finetuning.LINEAR:
                tuner = self._promote(items, labels, features, together, tune=self.advice_["tune"])
                self.tuner_ = tuner if tuner.promoted_ else None
        return self

    @guarded
    def cross_validate(
        self, X: Sequence[Any], y: Sequence[Any], groups: Sequence[object] | None = None, *, folds: int = 5
    ) -> StageResult:
        """Measure this kind of probe by k-fold cross-validation; every sample is embedded only once.

        It fits nothing that stays. The strength is chosen inside each training part, so nothing is chosen on what is
        reported; scikit-learn's ``cross_val_score`` gives the same without an interval.

        Parameters
        ----------
        X, y, groups
            As for `fit`. No fold divides a group, or copies of a sample.
        folds : int
            2 or more.

        Returns
        -------
        dict
            Figures of all held-out samples: see `featurepipe.probes.Folded`.
        """
        value, seed = self._strength(), self._seed()
        self._check(False)
        probes.check_folds(folds)
        options: dict[str, Any] = {"weights": self.weights, "store": self.store, "verbose": self.verbose}
        options |= {"medium": self.medium, "sample_rate": self.sample_rate}
        extractor = make_extractor(self.backbone, **options).fit(X)
        X = extractor.rows(X)
        labels, together = check_labelled(X, y), check_groups(X, groups)
        items = extractor.items(X)
        digests = np.array([item.digest for item in items], object)
        how: dict[str, Any] = {"value": value, "seed": seed, "device": self.probe_device, "groups": together}
        how["units"] = digests if together is None else manifests.units(digests, together)
        found = probes.cross_validate(self.kind, extractor.embed(items), labels, folds=folds, **how)
        return StageResult({**found.figures, "split": "held-out"}, "evaluate")

    def _strength(self) -> float | None:
        """The strength by whichever name it was given."""
        named = {name: getattr(self, name, None) for name in STRENGTHS}  # which an earlier featurepipe's pickle lacks
        return strength(self.kind, {"value": self.value, **named})

    def _seed(self) -> int:
        return seed_of(self.seed, getattr(self, "random_state", None))

    def _check(self, weighted: bool) -> None:
        """Raise ProbeError for parameters that could be found wrong only after minutes of embedding."""
        if weighted:
            probes.check_weighing(self.kind)
        if weighted and self.strategy != "probe":
            raise ProbeError(
                f"strategy {self.strategy!r} does not weigh samples; leave out sample_weight, or use 'probe'"
            )
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
        rows = np.sort(np.random.default_rng(self._seed()).permutation(len(y))[:MEASURED])
        extractor = self.extractor_.identity()
        some = [X[i] for i in rows]
        simple = backbones.SIMPLE[extractor.transform.medium]
        baselines = {names.HANDMADE[name]: self._baseline(name).fit_transform(some) for name in simple}  # (m, D'), each
        options: dict[str, Any] = {"baselines": baselines, "labels": len(y), "seed": self._seed()}
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

    @available_if(_has_scores)
    @guarded
    def decision_function(self, X: Sequence[Any]) -> np.ndarray:
        """Scores of the linear classifier, (n, classes), or (n,) for two classes: above 0 is the second.

        Only for the linear kinds: logistic, ridge, svm and lda. The temperature of `predict_proba` plays no part.
        """
        check_is_fitted(self, "probe_")
        if self.tuner_ is not None:
            return self.tuner_.decision_function(X)
        vectors = self.extractor_.embed(self.extractor_.items(X))  # (n, D)
        found: np.ndarray = self.probe_.estimator.decision_function(vectors.astype(np.float64))
        return found

    @available_if(_has_neighbours)
    @guarded
    def kneighbors(self, X: Sequence[Any], n_neighbors: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest training samples of each sample; only of the kinds knn and approximate-knn.

        Parameters
        ----------
        X : sequence of samples, shape (n,)
        n_neighbors : int, optional
            How many; by default as many as vote.

        Returns
        -------
        distances : ndarray of float, shape (n, n_neighbors)
            1 minus the cosine of the embeddings.
        indices : ndarray of int, shape (n, n_neighbors)
            Places in the X that `fit` was given.
        """
        check_is_fitted(self, "probe_")
        vectors = self.extractor_.embed(self.extractor_.items(X))  # (n, D)
        found: tuple[np.ndarray, np.ndarray] = self.probe_.estimator.kneighbors(vectors, n_neighbors)
        return found

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
        if getattr(self, "_is_weighted", False):
            raise FinetuningError("tuning does not weigh samples; fit the classifier without sample_weight first")
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
        options: dict[str, Any] = {"weights": self.weights, "store": self.store, "seed": self._seed()}
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
        selection = Selection.made(
            self.probe_.selected_on, self.probe_.chosen, self.probe_.path, coverage=self.probe_.coverage
        )
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
                seed=self._seed(),
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
        model = models.load_of_samples(path)
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

    def _face(self) -> Face | None:
        if not hasattr(self, "probe_"):
            return None
        return probe_face(self.probe_) if self.tuner_ is None else tuner_face(self.tuner_)
