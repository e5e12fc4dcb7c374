"""Evidence: what embeddings and labels say about size, similarity and headroom. Nothing that is reported is seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from featurepipe import probes, statistics
from featurepipe.advice.curves import Round, label_curve
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds import describe, threads
from featurepipe.probes.selection import assign_folds
from featurepipe.surroundings import guarded

KIND = "ridge"  # of the probes here: from sums that all alphas share, a tenth of the logistic one's time
DRAWS = 5  # of labels for the curve, where selection data are given
NEIGHBOURS = 10  # the fewest that DINOv2's evaluation takes
# Pretraining that rebuilds what was masked, and leaves what it knows where no linear probe finds it. Tokens of timm's
# names and tags; "ft" after them says that such a network has since been tuned on labels.
MASKED = {"mae", "fcmae", "mim", "simmim", "ijepa", "jepa", "vjepa", "data2vec", "maskfeat", "cae"}
MASKED |= {"beit", "beitv2", "beit3"}
TUNED = {"ft"}
TUNED_HERE = re.compile(r" tuned on | \(tuned\)")  # how featurepipe calls what it has tuned; data are named after "on"


def is_masked(*names: str) -> bool:
    """Whether a backbone's names say that it was pretrained by masking, and not tuned on labels since.

    Examples
    --------
    >>> is_masked("vit_base_patch16_224.mae"), is_masked("convnextv2_tiny.fcmae_ft_in1k"), is_masked("resnet50.a1_in1k")
    (True, False, False)
    """
    if any(TUNED_HERE.search(name) for name in names):
        return False
    tokens = {token for name in names for token in re.split(r"[^a-z0-9]+", name.lower())}
    return bool(tokens & MASKED) and not tokens & TUNED


def count(y: np.ndarray) -> dict[str, Any]:
    """How many training images there are: ``images, classes, per_class`` (``min, median``).

    Examples
    --------
    >>> count(np.array(["a", "b", "b", "b"]))
    {'images': 4, 'classes': 2, 'per_class': {'min': 1, 'median': 2.0}}
    """
    _, counts = np.unique(y, return_counts=True)
    per_class = {"min": int(counts.min()), "median": float(np.median(counts))}
    return {"images": len(y), "classes": len(counts), "per_class": per_class}


@guarded
def measure(
    layers: Mapping[str, np.ndarray],
    y: np.ndarray,
    *,
    val: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
    labels: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what the advice rests on, on rows that may be learned and selected from.

    All figures come from selection data (`val`), or from stratified 5-fold cross-validation where there are none.

    Parameters
    ----------
    layers : mapping of str to ndarray, shape (n, D)
        Raw embeddings of each layer, in the network's order; the last is the one that a head would be tuned on.
    y : ndarray, shape (n,)
    val : ndarray of bool, shape (n,), optional
        The rows that are selection data.
    groups : ndarray, shape (n,), optional
        Rows of the same group, such as exact copies, stay in one fold.
    baselines : mapping of str to ndarray, shape (n, D'), optional
        What comes without the pretraining, such as raw pixels and an untrained copy, on the same rows.
    labels : int, optional
        How many training images there are in all, where these rows are a draw of them.
    seed : int
        Seed for folds and draws.

    Returns
    -------
    dict
        Fractions throughout:

        - ``measured_on, measured, layer``: selection data, how many, and the last layer's name
        - ``top1, train_top1``: of a ridge probe on that layer; the latter on rows that it was fitted to
        - ``layers``: for each ``layer, width, top1, log_loss, logme``
        - ``best_layer``: the one that `featurepipe.probes.choose_layer` takes
        - ``knn``: top-1 of 10 neighbours by cosine on the raw embeddings of the last layer
        - ``baselines``: the same figure for ``chance`` (the commonest class), the first layer where there are several,
          and each of `baselines`; ``similarity``: see the notes
        - ``labels``: see `featurepipe.advice.label_curve`; None of one image per class

    Raises
    ------
    ProbeError
        No layer, fewer than two classes, no class with two rows where there are no selection data, or rows that
        `featurepipe.probes.fit` refuses.

    Notes
    -----
    How far data are from those of the pretraining cannot be read from embeddings alone: nothing of the pretraining data
    is in a cache. What can be measured is how much the pretrained network knows of these classes before it has learned
    any of them: its neighbours by cosine, where nothing is fitted, on a scale from what comes without pretraining (the
    best of `baselines`, 0) to no mistake (1). It is not a distance between domains. Classes that are hard in themselves
    (fine distinctions, wrong labels) look far. Easy ones that pixels tell apart leave no room to measure it. Backbones
    pretrained by masking have no useful neighbours at all, so everything looks far from them. Without pixels or an
    untrained copy it is optimistic.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(120) % 3
    >>> X = rng.normal(size=(120, 8)) + 3 * np.eye(8)[y]
    >>> found = measure({"stage1": X[:, :2], "penultimate": X}, y, baselines={"pixels": rng.normal(size=(120, 5))})
    >>> found["measured"], found["best_layer"], sorted(found["baselines"])
    (120, 'penultimate', ['chance', 'pixels', 'stage1'])
    """
    if not layers:
        raise ProbeError("no layer to measure; give the embeddings of at least one")
    y = np.asarray(y)
    val = np.zeros(len(y), bool) if val is None else np.asarray(val, bool)
    rounds = _rounds(y, val, groups, seed)
    ready = _Split(y, val, groups, seed)
    table: list[dict[str, Any]] = []
    rights: list[np.ndarray] = []
    fitted: probes.Probe | None = None
    for name, X in layers.items():
        fitted = ready.fit(KIND, X)
        scores = {key: fitted.scores[key] for key in ("top1", "log_loss")}
        with threads(X):
            logme = statistics.logme(describe(X[~val], y[~val], None))
        table.append({"layer": name, "width": X.shape[1], **scores, "logme": logme})
        assert fitted.right is not None  # it has figures, and so has been selected
        rights.append(fitted.right)
    assert fitted is not None  # there is a layer
    *earlier, last = layers
    measured = fitted.scores["n"]
    others = {**{name: layers[name] for name in earlier[:1]}, **(baselines or {})}
    found = {
        "measured_on": fitted.selected_on,
        "measured": measured,
        "layer": last,
        "top1": table[-1]["top1"],
        "train_top1": float(np.mean(probes.predict(fitted.estimator, layers[last][~val]) == y[~val])),
        "layers": table,
        "best_layer": table[probes.choose_layer(rights)]["layer"],
        "knn": ready.neighbours(layers[last]),
        "baselines": {"chance": ready.chance(), **{name: ready.neighbours(X) for name, X in others.items()}},
    }
    base = max(found["baselines"].values())
    found["similarity"] = max(0.0, (found["knn"] - base) / (1 - base)) if base < 1 else 0.0
    train = int((~val).sum()) if labels is None else labels
    single = np.unique(y[~val], return_counts=True)[1].max() < 2  # a quarter of one is one: there is no curve
    curve = None if single else label_curve(layers[last], y, rounds, labels=train, seed=seed)
    return {**found, "labels": curve}


class _Split:
    """Labels with what is held out of them, and probes measured on that."""

    def __init__(self, y: np.ndarray, val: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        self._y, self._val, self._groups, self._seed = y, val, groups, seed

    def fit(self, kind: str, X: np.ndarray, value: float | None = None) -> probes.Probe:
        y, val = self._y, self._val
        select = (X[val], y[val]) if val.any() else ()
        groups = None if self._groups is None else self._groups[~val]
        return probes.fit(kind, X[~val], y[~val], *select, value=value, groups=groups, seed=self._seed)

    def neighbours(self, X: np.ndarray) -> float:
        """Top-1 of the nearest neighbours."""
        return self.fit("knn", X, min(NEIGHBOURS, int((~self._val).sum()))).scores["top1"]

    def chance(self) -> float:
        """Top-1 of always answering with the commonest class."""
        return probes.majority(self._y[~self._val], self._y[self._val] if self._val.any() else self._y)


def _rounds(y: np.ndarray, val: np.ndarray, groups: np.ndarray | None, seed: int) -> list[Round]:
    """Rows to train and to measure on: several times the same with selection data, else fold after fold."""
    if val.any():
        return [(np.flatnonzero(~val), np.flatnonzero(val))] * DRAWS
    folds = assign_folds(y, seed, groups)
    if (folds < 0).all():
        raise ProbeError("every class has only one training image, so nothing can be measured; label more images")
    return [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds[folds >= 0])]
