"""`FineTuner`: images → classes, by a probe that is promoted to a tuned network where that is expected to pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from featurepipe import extraction, finetuning, manifests, models, probes
from featurepipe.backbones import Backbone
from featurepipe.cards import Card, Epoch, Refit, Selection, Tuning
from featurepipe.errors import FinetuningError
from featurepipe.estimators.extractor import FeatureExtractor, embedded, make_extractor
from featurepipe.estimators.images import Images
from featurepipe.estimators.labels import check_groups, check_labelled
from featurepipe.estimators.looks import Shown, tuner_face
from featurepipe.estimators.parameters import seed_of
from featurepipe.estimators.rows import keys_of_files, sample_tags
from featurepipe.listeners import Bars, Listener, Quiet
from featurepipe.results import Face
from featurepipe.stores import Pending
from featurepipe.surroundings import guarded


class FineTuner(ClassifierMixin, Shown):
    """Classify images with a network that is tuned from where its probe stops (LP-FT).

    A fifth of each class is held back for validation, and the last epoch is kept. The tuned network predicts if it is
    expected to be better by a point than the probe; it is then trained once more on all images. Otherwise the probe
    predicts. The held-back images, on which both are compared, and what tuning gained on other data decide that
    (`featurepipe.finetuning.pays`). After an interrupt, or an error in training, the attributes are set to the best
    epoch so far before it is raised.

    Parameters
    ----------
    backbone : str or FeatureExtractor, optional
        Name of a backbone, or an extractor for full control.
    weights : path, optional
        See `FeatureExtractor`; only with a name.
    tune : str
        How deep to tune: ``head``, ``last-N`` blocks, ``stageK+`` or ``all``.
    epochs : int, optional
        Passes over the images; see `featurepipe.finetuning.Recipe` for the default.
    recipe : dict, optional
        Other fields of the recipe: ``{"lr": 1e-4, "augment": "crop"}``.
    store : path, optional
        Directory that keeps embeddings; only with a name.
    seed : int
        Seed for the draw of images that are held back, and for training.
    random_state : int, optional
        scikit-learn's name for `seed`; it counts where it is given. Model files record it, so it is a number.
    verbose : bool, optional
        None shows a progress bar for work of more than two seconds in a terminal or a notebook, and nothing where
        stderr is a file or a pipe. True shows it everywhere, with a line for each epoch. False shows nothing.

    Attributes
    ----------
    classes_ : ndarray
    promoted_ : bool
        Whether the tuned network predicts, rather than the probe.
    probe_ : featurepipe.probes.Probe
        Fitted on all of the training data.
    curve_ : list of dict
        See `featurepipe.finetuning.Course`.
    stopped_ : str
        Why training stopped; see `featurepipe.finetuning.Course`.
    backbone_ : featurepipe.backbones.Backbone
        The tuned network without its head, or the frozen one.
    estimator_ : scikit-learn classifier
        The classifier of the backbone's embeddings.
    seen_ : ndarray of uint64
        The files trained on; see `featurepipe.models.Model`.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 256, (12, 16, 16), np.uint8)
    >>> tuner = FineTuner(tune="last-1", epochs=1).fit(images, ["a", "b"] * 6)
    >>> tuner.predict_proba(images).shape, len(tuner.curve_)
    ((12, 2), 2)
    """

    def __init__(
        self,
        backbone: str | FeatureExtractor | None = None,
        *,
        weights: str | PathLike[str] | None = None,
        tune: str = "all",
        epochs: int | None = None,
        recipe: dict[str, Any] | None = None,
        store: str | PathLike[str] | None = None,
        seed: int = 0,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.tune = tune
        self.epochs = epochs
        self.recipe = recipe
        self.store = store
        self.seed = seed
        self.random_state = random_state
        self.verbose = verbose

    @guarded
    def fit(self, X: Sequence[Any], y: Sequence[Any], groups: Sequence[object] | None = None) -> FineTuner:
        """Embed the images, train the probe, and tune the network from there.

        Parameters
        ----------
        X : sequence of images, shape (n,)
        y : sequence, shape (n,)
            Classes.
        groups : sequence, shape (n,), optional
            The group of each image, such as a patient. The held-back images never divide a group.

        Raises
        ------
        ImageError
            An image cannot be read.
        ProbeError
            There are fewer than two classes.
        FinetuningError
            The recipe or depth is unknown, the backbone is not a network or stops at a stage, or every class has only
            one image.
        TrainingDiverged, OutOfMemory
            Training ended early.
        ValueError
            X is not a list of images, or `weights` or `store` is given together with a FeatureExtractor.
        """
        recipe = self._recipe()
        options = {"weights": self.weights, "store": self.store, "verbose": self.verbose}
        extractor = make_extractor(self.backbone, **options).fit(X)
        X = extractor.rows(X)
        labels, together = check_labelled(X, y), check_groups(X, groups)
        finetuning.check_tunable(extractor.network(), recipe.tune)
        items = extractor.items(X)
        features = extractor.embed(items)  # (n, D)
        how: dict[str, Any] = {"class_weight": recipe.class_weight, "seed": self._seed(), "groups": together}
        probe = probes.fit("logistic", features, labels, **how)
        return self.tune_from(probe, items, labels, features, extractor, recipe.class_weight, together)

    @guarded
    def predict(self, X: Sequence[Any]) -> np.ndarray:
        """Class of each image."""
        proba = self.predict_proba(X)  # (n, K)
        return self.classes_[proba.argmax(axis=1)]

    @guarded
    def predict_proba(self, X: Sequence[Any]) -> np.ndarray:
        """Class probabilities, shape (n, classes), columns as in ``classes_``."""
        check_is_fitted(self, "estimator_")
        return probes.probabilities(self.estimator_, self._embedded(X), self.temperature_)

    @guarded
    def decision_function(self, X: Sequence[Any]) -> np.ndarray:
        """Scores of the linear classifier, (n, classes), or (n,) for two classes: above 0 is the second."""
        check_is_fitted(self, "estimator_")
        found: np.ndarray = self.estimator_.decision_function(self._embedded(X).astype(np.float64))
        return found

    def _embedded(self, X: Sequence[Any]) -> np.ndarray:
        """Embeddings (n, D) by the network that predicts."""
        return embedded(Images(self.backbone_.transform).listed(X), self.backbone_, Bars(self.verbose))

    @guarded
    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write a model file with its backbone, which `TransferClassifier.load`, ``featurepipe predict`` and
        ``featurepipe extract -b`` take.

        Parameters
        ----------
        path : path
            Ends in ``.safetensors``.
        force : bool
            Also replace a file that featurepipe did not write. The weights that tuning began from are never replaced.

        Raises
        ------
        OutputError
            A file exists that must not be replaced.
        """
        check_is_fitted(self, "estimator_")
        made = self.backbone_
        models.check_output(Path(path), [self.weights, made.source["weights"]], force=force)
        source = (
            {**made.source, "weights": str(Path(path).resolve()), "random_seed": None}
            if self.promoted_
            else made.source
        )
        chosen = self.estimator_.C if self.promoted_ else self.probe_.chosen
        selection = Selection.made(self.probe_.selected_on, chosen, self.probe_.path)
        identity = {"name": made.name, "fingerprint": made.fingerprint, "spec": made.spec, "source": source}
        kind = "logistic" if self.promoted_ else self.probe_.kind
        card = Card(
            selection=selection,
            finetuning=self._tuning,
            licence=getattr(self, "_licence", None),  # which an earlier featurepipe's pickle lacks
            seed=self._seed(),
            versions=extraction.versions(),
        )
        model = models.Model(kind, self.estimator_, self.temperature_, identity, self.seen_, card)
        models.save(path, model, module=made.module)

    def _seed(self) -> int:
        return seed_of(self.seed, getattr(self, "random_state", None))  # which an earlier featurepipe's pickle lacks

    def _face(self) -> Face | None:
        return tuner_face(self) if hasattr(self, "curve_") else None

    def _recipe(self) -> finetuning.Recipe:
        given = self.recipe or {}
        if unknown := given.keys() - set(finetuning.SWITCHES):
            raise FinetuningError(f"a recipe has no {unknown.pop()!r}; it has {', '.join(finetuning.SWITCHES)}")
        recipe = finetuning.Recipe(**{"tune": self.tune, "epochs": self.epochs, "seed": self._seed(), **given})
        recipe.check()
        return recipe

    @guarded
    def tune_from(
        self,
        probe: probes.Probe,
        items: Sequence[Pending],
        y: np.ndarray,
        features: np.ndarray,
        extractor: FeatureExtractor,
        class_weight: str | None = None,
        groups: np.ndarray | None = None,
    ) -> FineTuner:
        """Tune from a probe, fitted with `class_weight` on all images, whose embeddings are `features` (n, D).

        What is held back divides none of the groups (n,).
        """
        recipe = self._recipe()
        frozen = finetuning.check_tunable(extractor.network(), recipe.tune)
        digests = np.array([item.digest for item in items], object)
        units = digests if groups is None else manifests.units(digests, groups)
        out = np.array(manifests.hold_out(list(map(str, y)), units.tolist(), seed=self._seed()))
        if not out.any():
            what = "image" if groups is None else "group"
            raise FinetuningError(f"every class has only one {what}, so none can be held back for validation; add more")
        options: dict[str, Any] = {"class_weight": class_weight, "seed": self._seed(), "groups": units[~out]}

        def fit(strength: float | None) -> probes.Probe:
            return probes.fit(probe.kind, features[~out], y[~out], value=strength, **options)

        strengths = probes.strength_of(probe), finetuning.gentle_strength(probe)
        head, rival, *_ = finetuning.starting_head(fit, *strengths, probe.classes, features[out], y[out], recipe)
        codes = np.searchsorted(probe.classes, y).astype(np.int64)
        train, validation = (_samples(items, codes, np.flatnonzero(which)) for which in (~out, out))
        listener = Bars(self.verbose)
        told: dict[str, Any] = {"name": f"{frozen.name} (tuned)", "listener": listener}
        made = finetuning.promote(frozen, head, train, validation, recipe, **told)
        self._licence = models.licence_of(frozen.source, frozen.spec)
        self._keep(made, probe, False, frozen, recipe)  # whatever comes now
        self.seen_ = keys_of_files(items)
        share = finetuning.expected_share(recipe.tune)
        promoted = made.outcome.best_epoch > 0 and _pays(rival, features[out], made, validation, share, listener)
        self._keep(made, probe, promoted, frozen, recipe)
        if promoted and recipe.refits and made.outcome.finished:
            told["listener"] = Quiet(listener)
            again = finetuning.refit_recipe(recipe, len(train))
            refitted = finetuning.promote(frozen, head, train + validation, validation, again, **told)
            if refitted.outcome.stopped == finetuning.INTERRUPTED:
                raise KeyboardInterrupt
            if refitted.outcome.error is not None:
                raise refitted.outcome.error
            last, stopped = refitted.outcome.curve[-1], refitted.outcome.stopped
            refit = Refit(images=len(items), epochs=last["epoch"], stopped=stopped)
            self._keep(finetuning.refitted(made, refitted), probe, promoted, frozen, recipe, refit)
        if made.outcome.error is not None:
            raise made.outcome.error
        if made.outcome.stopped == finetuning.INTERRUPTED:
            raise KeyboardInterrupt
        return self

    def _keep(
        self,
        made: finetuning.Promoted,
        probe: probes.Probe,
        promoted: bool,
        frozen: Backbone,
        recipe: finetuning.Recipe,
        refit: Refit | None = None,
    ) -> None:
        """Keep the tuned network if it is `promoted`, else the probe."""
        outcome = made.outcome
        self.promoted_ = promoted
        self.curve_, self.stopped_, self.probe_, self.classes_ = outcome.curve, outcome.stopped, probe, probe.classes
        self.backbone_ = made.backbone if self.promoted_ else frozen
        self.estimator_ = made.estimator if self.promoted_ else probe.estimator
        self.temperature_ = made.temperature if self.promoted_ else probe.temperature
        self._tuning = Tuning(
            promoted=promoted,
            start="probe" if recipe.head == finetuning.PROBE else "random head",
            tune=recipe.tune,
            tuned_parameters=made.tuned,
            parameters=made.parameters,
            curve=[Epoch.of_json(one) for one in outcome.curve],
            best_epoch=outcome.best_epoch,
            stopped=outcome.stopped,
            refit=refit,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "backbone_" in state:
            state["backbone_"] = replace(state["backbone_"])  # without what it has made of itself since
        return state

    def __sklearn_tags__(self) -> Any:
        return sample_tags(super().__sklearn_tags__())


def _pays(
    rival: finetuning.Head,
    features: np.ndarray,
    made: finetuning.Promoted,
    held: finetuning.Examples,
    share: float,
    listener: Listener,
) -> bool:
    """Whether the tuned network is kept: compared on the images held back, the probe on their `features` (n, D).

    An image that cannot be read any more does not count.
    """
    memory = extraction.Memory()
    todo = list({one.digest: one for one in held.images}.values())
    extraction.fill(todo, made.backbone, memory, label="measuring", listener=listener)
    kept = np.array([one.digest in memory.vectors for one in held.images])
    if not kept.any():
        return False
    vectors = np.stack([memory.vectors[one.digest] for one in held.images if one.digest in memory.vectors])  # (m, D)
    truth = rival.classes[held.targets]
    answers = rival.predict(features)[kept] == truth[kept], probes.predict(made.estimator, vectors) == truth[kept]
    return finetuning.pays(*answers, share)


def _samples(items: Sequence[Pending], codes: np.ndarray, which: np.ndarray) -> finetuning.Examples:
    return finetuning.Examples([items[i] for i in which], codes[which])
