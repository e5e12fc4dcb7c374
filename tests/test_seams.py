"""A new member of a seam is one definition: toys, defined here and used through public functions."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe import backbones, evaluate, extract, models, probe, probes, report
from featurepipe.digests import sha256_file
from featurepipe.extraction import Memory, Outcome, Processes, Settings, fill
from featurepipe.finetuning import Examples, Network, Recipe, random_head, tune
from featurepipe.finetuning.batches import PixelBatches, in_order
from featurepipe.finetuning.peers import Peers
from featurepipe.images import decode
from featurepipe.listeners import Listener
from featurepipe.probes.kinds.kind import Kind
from featurepipe.probes.kinds.linear import Linear, linear_estimator
from featurepipe.reports import pages
from featurepipe.reports.markup import Html, section, tag
from featurepipe.stores import Pending


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


class Brightness:
    """A regression instead of classes: the target is a number, the network's one output says it."""

    def loss(self, outputs, targets):
        return ((outputs[:, 0] - targets.float()) ** 2).sum(), float(len(targets))

    def validate(self, outputs, targets):
        return {"error": float(np.mean((outputs[:, 0] - targets) ** 2)), "n": len(targets)}

    def better(self, curve, best):
        return curve[-1]["error"] < curve[best]["error"]

    def stale(self, curve):
        return len(curve) - 1 - min(range(len(curve)), key=lambda i: curve[i]["error"])

    def tell(self, row):
        return f"squared error {row['error']:.3f}"


@pytest.mark.slow
def test_a_new_objective_is_one_class(tmp_path, small):
    files = [tmp_path / f"{n:02}.png" for n in range(24)]
    for n, path in enumerate(files):
        Image.fromarray(np.full((32, 32, 3), 40 * (n % 6), np.uint8)).save(path)
    images = [Pending(sha256_file(path), path) for path in files]
    samples = Examples(images, np.arange(24) % 6)
    recipe = Recipe(tune="all", epochs=4, batch_size=8, augment="none", lr=3e-2, patience=9)
    backbone = small()
    network = Network(backbone, *random_head(1, backbone.width, 0), recipe)
    batches = PixelBatches(samples, backbone.transform, recipe, "cpu", 1)
    heard = []
    outcome = tune(
        network,
        batches,
        lambda: in_order(samples, backbone.transform, 64, "cpu", 1, Peers()),
        recipe,
        objective=Brightness(),
        note=heard.append,
    )
    errors = [row["error"] for row in outcome.curve]
    assert outcome.best_epoch == int(np.argmin(errors)) > 0
    assert min(errors) < errors[0] / 2
    assert heard[0].startswith("before tuning: squared error ")


class Backwards:
    """A crew that embeds one image at a time, the last one first."""

    def fill(self, plan, extractor, sink, settings, progress, note):
        for pending in reversed(plan):
            pixels = decode(pending.source.read_bytes(), extractor.transform)[None]
            sink.append([pending.digest], extractor.embed(pixels), {})
            progress(1)
        sink.commit()
        note(f"backwards, {settings.workers} at a time")
        return Outcome(computed=len(plan))


def test_a_new_crew_is_one_class(planned):
    plan, wanted, found, heard = planned(5), Memory(), Memory(), []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    pixels = backbones.Pixels()
    fill(plan, pixels, wanted)
    outcome = fill(plan, pixels, found, Settings(workers=1, crew=Backwards()), listener=Ears())
    assert outcome.computed == 5
    assert list(found.vectors) == list(reversed(wanted.vectors))
    for digest, vector in wanted.vectors.items():
        np.testing.assert_array_equal(found.vectors[digest], vector)
    assert heard == ["backwards, 1 at a time"]


def test_several_devices_are_a_crew_of_processes():
    assert Settings.of(devices=("cpu", "cpu")).crew == Processes(("cpu", "cpu"))
    assert Settings.of(devices=("cpu",)) == Settings.of() == Settings()


def test_a_new_section_is_one_function(photos, tmp_path, monkeypatch):
    def places(page):
        return section("Places", tag("p", f"{page.data} lies in {page.root}; kind {page.model.kind}"))

    def silent(page):
        return Html()

    monkeypatch.setattr(pages, "SECTIONS", [*pages.SECTIONS, silent, places])
    root = photos(per_class=12)
    extract(root, tmp_path / "st", backbone="pixels")
    probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="none")
    page = Path(report(tmp_path / "m.safetensors")["report"]).read_text("utf-8")
    assert f"<h2>Places</h2><p>photos lies in {root}; kind ridge</p>" in page
    shutil.rmtree(root)
    page = Path(report(tmp_path / "m.safetensors")["report"]).read_text("utf-8")
    assert "photos lies in None" in page
