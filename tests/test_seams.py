"""A new member of a seam is one definition: toys, defined here and used through public functions."""

import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from ears import Ear
from PIL import Image, ImageOps

from featurepipe import (
    audit,
    audits,
    backbones,
    evaluate,
    extract,
    matrices,
    models,
    predict,
    probe,
    probes,
    report,
    stages,
)
from featurepipe.audits import Finding
from featurepipe.backbones.specs import make_spec
from featurepipe.digests import sha256_bytes, sha256_file, sha256_json
from featurepipe.errors import BackboneError, FinetuningError, ModelFileError, OutOfMemory, SampleError, StoreError
from featurepipe.estimators import FeatureExtractor, TransferClassifier
from featurepipe.extraction import Memory, Outcome, Processes, Settings, fill
from featurepipe.finetuning import Examples, Network, Recipe, random_head, tune
from featurepipe.finetuning.batches import PixelBatches, in_order
from featurepipe.finetuning.peers import Peers
from featurepipe.images import DECODERS, Decoder
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest, Sample
from featurepipe.matrices.parts import choose_splits
from featurepipe.media import Transform
from featurepipe.probes.kinds.kind import Kind
from featurepipe.probes.kinds.linear import Linear, linear_estimator
from featurepipe.reports import pages
from featurepipe.reports.looks import LOOKS, Look, Way
from featurepipe.reports.markup import Html, section, tag
from featurepipe.sources import SOURCES, Files, Source
from featurepipe.stores import Pending, Store


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
    images = [Pending(sha256_file(path), Files(), str(path)) for path in files]
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
        listener=Ear(heard.append),
    )
    errors = [row["error"] for row in outcome.curve]
    assert outcome.best_epoch == int(np.argmin(errors)) > 0
    assert min(errors) < errors[0] / 2
    assert heard[0].startswith("before tuning: squared error ")


class Backwards:
    """A crew that embeds one image at a time, the last one first."""

    def fill(self, plan, extractor, sink, settings, listener):
        with listener.progress("backwards", len(plan)) as advance:
            for pending in reversed(plan):
                pixels = extractor.transform.decode(pending.read(), pending.part)[None]
                sink.append([pending.digest], extractor.embed(pixels), {})
                advance(1)
        sink.commit()
        listener.note(f"backwards, {settings.workers} at a time")
        return Outcome(computed=len(plan))


def test_a_new_crew_is_one_class(planned):
    plan, wanted, found, heard = planned(5), Memory(), Memory(), []

    pixels = backbones.Pixels()
    fill(plan, pixels, wanted)
    outcome = fill(plan, pixels, found, Settings(workers=1, crew=Backwards()), listener=Ear(heard.append))
    assert outcome.computed == 5
    assert list(found.vectors) == list(reversed(wanted.vectors))
    for digest, vector in wanted.vectors.items():
        np.testing.assert_array_equal(found.vectors[digest], vector)
    assert heard == ["backwards, 1 at a time"]


class Negative(Decoder):
    """A decoder that gives the negative of what Pillow gives."""

    def read(self, image, data, channels):
        return ImageOps.invert(super().read(image, data, channels))


def test_a_new_decoder_is_one_class_and_one_entry(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(DECODERS, "negative", Negative())
    root = photos(per_class=1)
    made = {}
    for decoder in ("pillow", "negative"):
        how = {"backbone": "bundled", "transform": {"decoder": decoder}, "precision": "fp32", "device": "cpu"}
        result = extract(root, tmp_path / decoder, **how)
        assert (result["decoder"], result["computed"]) == (decoder, 2)
        made[decoder] = result["fingerprint"]
    assert made["pillow"] != made["negative"]
    plain = backbones.create("bundled", transform={"decoder": "pillow"}).transform
    data = next(root.rglob("*.jpg")).read_bytes()
    found = replace(plain, decoder="negative").decode(data).astype(int)
    np.testing.assert_allclose(found, 255 - plain.decode(data), atol=2)  # resizing rounds


class ToyTransform:
    """Four numbers from a line of text: a medium whose inputs are neither images nor bytes."""

    medium, shape, dtype, cost = "toy", (4,), np.dtype(np.float32), 4

    def decode(self, data, part=None, /):
        numbers = data.decode().split()
        if len(numbers) != 4:
            raise SampleError(f"a toy has 4 numbers; this one has {len(numbers)}")
        return np.array(numbers, np.float32)

    def trial(self, count, /):
        return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


class ToyExtractor:
    """Sum and product of a toy's numbers; a device of its own has room for three at once."""

    name, source, width, transform = "toys", {}, 2, ToyTransform()

    def __init__(self, device="cpu"):
        self.device, self.most = device, 3

    def embed(self, inputs):
        assert (inputs.dtype, inputs.shape[1:]) == (np.float32, (4,))
        if len(inputs) > self.most:
            raise OutOfMemory("too many")
        return np.stack([inputs.sum(axis=1), inputs.prod(axis=1)], axis=1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # the latter is a name here
def test_a_new_medium_is_one_transform(tmp_path, device):
    transform: Transform = ToyTransform()
    texts = [" ".join(str(n + 0.25 * k) for k in range(4)) for n in range(20)]
    texts[17] = "1 2 3"
    plan = []
    for n, text in enumerate(texts):
        path = tmp_path / f"{n:02}.toy"
        path.write_text(text)
        plan.append(Pending(sha256_file(path), Files(str(tmp_path)), path.name))
    found, heard = Memory(), []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    outcome = fill(plan, ToyExtractor(device), found, Settings(batch_size=8, workers=2), listener=Ears())
    assert outcome.rejects == {plan[17].digest: "a toy has 4 numbers; this one has 3"}
    assert outcome.computed == 19
    for n, pending in enumerate(plan):
        if n != 17:
            numbers = n + 0.25 * np.arange(4, dtype=np.float32)
            np.testing.assert_allclose(found.vectors[pending.digest], [numbers.sum(), numbers.prod()], rtol=1e-6)
    assert any(f"out of memory with 8 toys at once on {device}; continuing with 4" in text for text in heard)
    assert transform.trial(3).shape == (3, *transform.shape)


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


def test_a_new_look_is_one_function(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(LOOKS, "image", Way(lambda data, part: Look(words=f"{len(data)} bytes & no picture"), 5))
    extract(photos(per_class=12), tmp_path / "st", backbone="pixels")
    probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="none")
    made = report(tmp_path / "m.safetensors", store=tmp_path / "st")
    page = Path(made["report"]).read_text("utf-8")
    assert made["shown"] == 5
    assert "bytes &amp; no picture</blockquote>" in page
    assert "<img" not in page


def test_a_new_check_is_one_function(photos, tmp_path, monkeypatch):
    def names(evidence):
        for row, id_ in enumerate(evidence.samples.ids):
            if id_.endswith("2.png"):
                yield Finding("names that end in 2", 0.7, (row,), f"{id_} ends in 2")

    monkeypatch.setitem(audits.CHECKS, "names", names)
    extract(photos(per_class=12), tmp_path / "st", backbone="pixels")
    found = audit(tmp_path / "st", tmp_path / "a.html", fix=tmp_path / "f.csv")
    assert found["checks"]["names"] == {"findings": 2, "kinds": {"names that end in 2": 2}, "skipped": None}
    assert "names that end in 2: 2" in found["summary"]
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "<h3>Names that end in 2: 2</h3>" in page
    assert "ant/2.png ends in 2" in page
    assert (tmp_path / "f.csv").read_text().count("names that end in 2") == 2


@dataclass(frozen=True)
class Tint:
    """The mean colour, as an extractor that is no torch module."""

    name: str = "toy:tint"
    device: str = "cpu"
    width: int = 3
    transform: Transform = backbones.Pixels().transform

    @property
    def spec(self):
        return make_spec("toy:tint", {}, None, self.transform, backbones.PENULTIMATE, None, "fp32")

    @property
    def source(self):
        return {"name": "toy:tint", "weights": None, "random_seed": None}

    @property
    def fingerprint(self):
        return sha256_json(self.spec)

    @property
    def members(self):
        return (self,)

    def embed(self, pixels):
        return pixels.mean((2, 3), dtype=np.float32)


class Toys(backbones.Maker):
    family = "toy"

    def knows(self, name):
        return False

    def create(self, name, request):
        request.allow(f"toy:{name}")
        return Tint(name=f"toy:{name}")

    def recall(self, spec, origin):
        return {"name": origin.source["name"]}

    def names(self, pattern, *, pretrained):
        return ["toy:tint"] if fnmatch("toy:tint", pattern) else []


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(backbones.MAKERS, "toy", Toys())


def test_a_new_family_of_backbones_is_one_class(toys, photos, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    assert extract(root, store, backbone="toy:tint")["backbone"] == "toy:tint"
    assert extract(root, store, backbone="toy:tint")["computed"] == 0
    probed = probe(store, path, kind="ridge", baselines="full")
    assert evaluate(path, store)["top1"] == probed["test"]["top1"]
    assert "no figure for random backbone: toy:tint takes no" in " ".join(models.load(path).card["notes"])
    assert predict(path, root)["predicted"] == 24
    assert "toy:tint" in Path(report(path)["report"]).read_text("utf-8")
    assert backbones("toy*") == ["toy:tint"]
    with pytest.raises(BackboneError, match="toy:tint takes no weights, arguments, random weights, layer"):
        extract(root, store, backbone="toy:tint", layer="stage1")


def test_a_new_family_of_backbones_works_wherever_backbones_do(toys, photos, tmp_path):
    root, store, heard = photos(per_class=12), tmp_path / "st", []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    extract(root, store, backbone="toy:tint")
    rows = stages.compare(store, kinds=["ridge"], baselines="simple")["rows"]
    assert {row["backbone"] for row in rows} == {"toy:tint", "pixels"}
    assert stages.export(store, tmp_path / "x.npz")["width"] == 3
    assert stages.verify(store, drift=True, listener=Ears())["drift"] == []
    assert "toy:tint has no other precision or decoder, so its drift cannot be measured" in " ".join(heard)
    advice = stages.advise(store)
    assert advice["tune"] is None
    assert "featurepipe cannot tune this backbone" in advice["warnings"][-1] + advice["warnings"][0]
    with pytest.raises(FinetuningError, match="toy:tint is not a network that can be tuned"):
        stages.finetune(store)
    with pytest.raises(ModelFileError, match="toy:tint cannot be stored in a model file"):
        probe(store, kind="ridge", baselines="none", include_backbone=True)


def test_a_new_family_of_backbones_works_in_the_estimators(toys, photos, tmp_path):
    files = sorted(photos(per_class=6).rglob("*.*"))
    labels = [path.parent.name for path in files]
    model = TransferClassifier("toy:tint", kind="ridge").fit(files, labels)
    model.save(tmp_path / "m.safetensors")
    again = TransferClassifier.load(tmp_path / "m.safetensors")
    assert again.backbone.backbone == "toy:tint"
    assert again.predict(files).tolist() == model.predict(files).tolist()
    assert FeatureExtractor("toy:tint").fit_transform(files).shape == (12, 3)


def test_a_store_of_a_family_that_is_unknown_here_can_be_read(photos, tmp_path):
    store = tmp_path / "st"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.MAKERS, "toy", Toys())
        extract(photos(per_class=12), store, backbone="toy:tint")
    path = tmp_path / "m.safetensors"
    assert 0 <= evaluate(probe(store, path, kind="ridge", baselines="none")["model"], store)["top1"] <= 1
    with pytest.raises(BackboneError, match=r"m.safetensors: no family of backbones is called 'toy'.*timm"):
        predict(path, photos(name="new"))


@dataclass(frozen=True)
class Painted(Source):
    """Pictures painted from the text that is their place: nothing is on any disk."""

    root: str = "a painter"
    kind = "painted"

    def read(self, place):
        label, seed = place.split()
        rng = np.random.default_rng(int(seed))
        picture = rng.integers(0, 60, (24, 24, 3), np.uint8)
        picture[..., ["red", "green"].index(label)] += 150
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        return file.getvalue()


def test_a_new_source_is_one_class(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, Painted.kind, lambda root: Painted(root))
    samples = [Sample(f"{label}/{n:02}", f"{label} {n}", label, None) for label in ("green", "red") for n in range(20)]
    manifest = Manifest(Painted(), samples)
    assert extract(manifest, tmp_path / "st", backbone="bundled")["computed"] == 40
    assert extract(manifest, tmp_path / "st", backbone="bundled")["computed"] == 0
    result = probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="simple")
    assert result["test"]["top1"] == 1.0
    assert result["baselines"]["pixels"] == 1.0  # for which the pictures were painted again
    store = Store.open(tmp_path / "st")
    assert json.loads((store.path / "store.json").read_text())["source"] == "painted"
    assert (store.source, str(store.root)) == (Painted(), "a painter")
    wanted = [row.digest for row in store.rows()][3:5]
    assert [one.read() for one in store.pending(wanted)] == [Painted().read(f"green {n}") for n in (3, 4)]
    assert stages.verify(store.path)["ok"]
    monkeypatch.delitem(SOURCES, Painted.kind)
    assert evaluate(tmp_path / "m.safetensors", tmp_path / "st")["top1"] == 1.0  # which needs no picture
    with pytest.raises(StoreError, match="samples of a 'painted' source, which cannot be opened from here"):
        store.source  # noqa: B018


def test_boxes_of_one_photo_are_samples(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["path,part,label"]
    for n in range(12):
        photo = rng.integers(0, 60, (32, 64, 3), np.uint8)
        photo[:, :32, 0] += 150
        photo[:, 32:, 1] += 150
        Image.fromarray(photo).save(tmp_path / f"{n:02}.png")
        lines += [f'{n:02}.png,"0,0,32,32",red', f'{n:02}.png,"32,0,64,32",green']
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    result = extract(tmp_path / "boxes.csv", tmp_path / "st", backbone="pixels")
    assert (result["samples"], result["computed"], result["rejected"]) == (24, 24, 0)
    assert probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="none")["test"]["top1"] == 1.0
    store = Store.open(tmp_path / "st")
    rows = list(store.rows())
    assert rows[0].sample == Sample("00.png#0,0,32,32", "00.png", "red", None, None, "0,0,32,32")
    content = sha256_file(tmp_path / "00.png")
    assert (rows[0].content, rows[0].digest) == (content, sha256_bytes(bytes.fromhex(content) + b"0,0,32,32"))
    matrix = matrices.load(store, store.choose())
    cut = np.asarray(Image.open(tmp_path / "00.png"))[:, :32]
    np.testing.assert_array_equal(matrix.X[0], cut.transpose(2, 0, 1).reshape(-1).astype(np.float32) / 255)
    assert matrix.units.tolist() == [row.content for row in rows]
    split, _ = choose_splits(matrix, 0)
    assert all(one == other for one, other in zip(split[::2], split[1::2], strict=True))
    answers = predict(tmp_path / "m.safetensors", tmp_path / "boxes.csv")["predictions"]
    assert [(one["path"], one["part"]) for one in answers[:2]] == [
        ("00.png", "0,0,32,32"),
        ("00.png", "32,0,64,32"),
    ]
    assert all(one["label"] == one["true_label"] for one in answers)
    (tmp_path / "whole.csv").write_text("\n".join(["path", *(f"{n:02}.png" for n in range(12))]))
    of_train = {content for content, part in zip(matrix.files, split, strict=True) if part != "test"}
    assert predict(tmp_path / "m.safetensors", tmp_path / "whole.csv")["seen_in_training"] == len(of_train) < 12
    (tmp_path / "others.csv").write_text("\n".join(["path,part", *(f'{n:02}.png,"8,0,40,32"' for n in range(12))]))
    assert predict(tmp_path / "m.safetensors", tmp_path / "others.csv")["seen_in_training"] == len(of_train)
