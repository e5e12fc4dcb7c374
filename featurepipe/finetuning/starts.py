"""What fine-tuning starts from: the probe, fitted without the images that tuning is validated on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from featurepipe import finetuning, manifests, models, probes
from featurepipe.errors import FinetuningError
from featurepipe.finetuning import Examples, Head, Recipe
from featurepipe.listeners import Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import Parts, held_notes
from featurepipe.models.candidates import Prepared
from featurepipe.probes.parts import fit_parts, hold
from featurepipe.stores import Pending


@dataclass(frozen=True)
class Start:
    """What tuning starts from, and what it has to beat.

    Attributes
    ----------
    found : Prepared
    parts : Parts
        Its rows with their embeddings.
    train, validation : FeatureMatrix
        What is learned from, and what is validated on: no row of them is reported.
    validated_on : str
    probe : Probe
        Fitted on all rows except those that are reported; it is kept if tuning does not pay.
    head : Head
        The probe, fitted without the validation rows, at the strength that `featurepipe.finetuning.gentle_strength`
        takes; or a random layer.
    rival : Head
        What tuning has to beat: the probe at its own strength, fitted without the validation rows.
    figures : dict
        The figures of `rival` on the validation rows, calibrated on them as every epoch will be.
    first : dict
        The same of what the head starts as.
    baselines : dict
        ``pixels, random_backbone``: those of the model that is promoted, if it has seen the very images that are not
        reported, and as many are; or None.
    seen : ndarray of uint64
        Contents that the promoted model has seen; see `featurepipe.models.Model`.
    notes : list of str
    """

    found: Prepared
    parts: Parts
    train: FeatureMatrix
    validation: FeatureMatrix
    validated_on: str
    probe: probes.Probe
    head: Head
    rival: Head
    figures: dict[str, Any]
    first: dict[str, Any]
    baselines: dict[str, float | None]
    seen: np.ndarray
    notes: list[str]

    @cached_property
    def pending(self) -> dict[str, Pending]:
        """Digest → where the content is, as it was when tuning began: the store may be filled anew meanwhile."""
        return {one.digest: one for one in self.found.store.pending(np.unique(self.found.samples.digests))}

    def samples(self, part: FeatureMatrix) -> Examples:
        """Rows as images and class numbers."""
        targets = np.searchsorted(self.head.classes, part.y).astype(np.int64)
        return Examples([self.pending[digest] for digest in part.digests], targets)


def begin(found: Prepared, loaded: models.Model | None, recipe: Recipe, limit: int | None, listener: Listener) -> Start:
    """Fit the probe, and once more without what tuning will be validated on."""
    kind = "logistic" if loaded is None else loaded.kind
    found.announce(listener, f"{kind} probe")
    check_classes(loaded, set(found.samples.y))
    parts = hold(found.entry, found.samples, kind, limit)
    train, validation, validated_on = _hold_out(parts, recipe.seed)
    class_weight = recipe.class_weight if loaded is None else loaded.card.class_weight
    classes, notes = np.unique(train.y), held_notes(parts)
    seen = models.seen_in_tuning(found.origin, found.single.spec)  # where the backbone has been tuned before
    if np.isin(models.digest_keys(validation.digests), seen).any():
        notes.append(
            f"the backbone has been tuned on images of {validated_on}, so its validation figures are optimistic"
        )
    if loaded is None:
        probe = fit_parts(kind, parts, seed=recipe.seed, class_weight=class_weight)
    else:
        probe, seen = _own_probe(loaded, classes), np.union1d(seen, loaded.seen)
        notes += _seen_notes(loaded, parts)
    own = loaded is not None and not loaded.has_seen_rows(validation).any()

    def fit(strength: float | None) -> probes.Probe:
        if own:
            return probe
        options: dict[str, Any] = {"groups": train.units, "class_weight": class_weight, "seed": recipe.seed}
        return probes.fit(kind, train.X, train.y, value=strength, **options, keep=parts.elsewhere is None)

    chosen = probes.strength_of(probe)
    gentle = chosen if own else finetuning.gentle_strength(probe)
    told = finetuning.starting_head(fit, chosen, gentle, classes, validation.X, validation.y, recipe)
    baselines = _baselines(loaded, found, parts)
    return Start(found, parts, train, validation, validated_on, probe, *told, baselines, seen, notes)


def _baselines(loaded: models.Model | None, found: Prepared, parts: Parts) -> dict[str, float | None]:
    """What the card of a model says of them, if it has seen the very images that are not reported, and as many are."""
    known: dict[str, float | None] = {}
    if loaded is not None and loaded.card.get("splits") == found.splits:
        learned = np.unique(models.digest_keys(parts.learned.digests))
        known = loaded.card.baselines if np.array_equal(np.unique(loaded.seen), learned) else {}
    return {name: known.get(name) for name in ("pixels", "random_backbone")}


def _own_probe(loaded: models.Model, classes: np.ndarray) -> probes.Probe:
    """A model's classifier as a probe for the classes of the data, which may be more than it has seen."""
    selection, splits = loaded.card.selection, loaded.card.get("splits")
    scores = {} if splits is None else {"n": splits["val" if selection.on == "val" else "train"]}
    known: dict[str, Any] = {"path": selection["path"], "scores": scores}
    probe = probes.Probe(loaded.kind, loaded.estimator, loaded.temperature, selection.chosen, selection.on, **known)
    if probe.classes.tolist() == classes.tolist():
        return probe
    head = finetuning.linear_head(probe.kind, probe.estimator, probe.temperature, classes)
    estimator = finetuning.head_estimator(*head, classes, 1.0)
    return replace(probe, kind="logistic", estimator=estimator, temperature=1.0, chosen=1.0, path=[], scores={})


def _seen_notes(loaded: models.Model, parts: Parts) -> list[str]:
    """A note where the model has learned from what is reported."""
    count = int(loaded.has_seen_rows(parts.report).sum())
    return (
        [f"the model has seen {count} of the {parts.reported} images before, so these figures are optimistic"]
        if count
        else []
    )


def _hold_out(parts: Parts, seed: int) -> tuple[FeatureMatrix, FeatureMatrix, str]:
    """Rows to learn from and rows to validate on: val where test is reported, else a fifth of train."""
    if parts.select is not None:
        return parts.train, parts.select, "val"
    out = np.array(manifests.hold_out(parts.train.y.tolist(), parts.train.units.tolist(), seed=seed))
    if not out.any():
        raise FinetuningError(
            "every class has only one training image or group, so none can be held back for validation; add more"
        )
    return parts.train.take(~out), parts.train.take(out), f"a fifth of train, held back here, seed {seed}"


def check_classes(loaded: models.Model | None, labels: Collection[str | None]) -> None:
    """Refuse data that lack a class of the model's, which tuning would unlearn."""
    for label in () if loaded is None else map(str, loaded.classes.tolist()):
        if label not in labels:
            raise FinetuningError(
                f"no image shows {label!r}, which the model knows and tuning would unlearn; add some, or tune from a "
                "store of these images instead of the model"
            )
