"""A new member of a seam is one definition: toys, defined here and used through public functions."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurepipe import evaluate, extract, models, probe, probes, report
from featurepipe.probes.kinds.kind import Kind
from featurepipe.probes.kinds.linear import Linear, linear_estimator


@dataclass(frozen=True, kw_only=True)
class Means(Linear):
    """Least squares to the classes by their means alone: a toy that has no strength but a name for it."""

    name: str = "means"
    parameter: str | None = "shrink"
    grid: tuple[float | None, ...] = (0.5, 1.0)

    def fit(self, X, y, candidates, weights, *, seed, keep, device) -> Iterable:
        classes = np.unique(y)
        X = np.asarray(X[:], float)
        for shrink in candidates:
            means = np.stack([X[y == label].mean(axis=0) for label in classes]) * shrink
            coef, intercept = means, -(means**2).sum(axis=1) / 2
            if len(classes) == 2:
                coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
            yield self.make(classes, coef, intercept, shrink), None

    def make(self, classes, coef, intercept, strength):
        from sklearn.linear_model import LogisticRegression

        return linear_estimator(LogisticRegression(C=strength), classes, coef, intercept)


def test_a_new_kind_of_probe_is_one_class(photos, tmp_path, monkeypatch):
    kind: Kind = Means()
    monkeypatch.setitem(probes.KINDS, kind.name, kind)
    extract(photos(per_class=12), tmp_path / "st", backbone="pixels")
    result = probe(tmp_path / "st", tmp_path / "m.safetensors", kind="means", baselines="none")
    assert result["shrink"] in kind.grid
    assert [step["shrink"] for step in result["selection"]["path"]] == [0.5, 1.0]
    loaded = models.load(tmp_path / "m.safetensors")
    assert loaded.kind == "means"
    assert evaluate(tmp_path / "m.safetensors", tmp_path / "st")["top1"] == result["test"]["top1"]
    page = Path(report(tmp_path / "m.safetensors")["report"]).read_text("utf-8")
    assert "shrink=" in page
