"""From a probe to a tuned network and back to a backbone with a classifier."""

import numpy as np
import pytest
import torch
from ears import Ear

from featurepipe import probes
from featurepipe.backbones import embedding_forward
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import FinetuningError
from featurepipe.extraction import read_batch
from featurepipe.finetuning import Cache, Examples, Head, Peers, PixelBatches, Recipe, linear_head, promote
from featurepipe.finetuning.batches import in_order
from featurepipe.finetuning.objectives import Classes

pytestmark = pytest.mark.slow

QUICK = {"epochs": 3, "batch_size": 8, "lr": 3e-3, "augment": "none", "patience": 0}
CLASSES = np.array(["ant", "bee", "cat"], object)


def embedded(backbone, samples):
    return backbone.embed(read_batch(samples.images, backbone.transform).inputs), CLASSES[samples.targets]


@pytest.fixture
def promoted(small, tinted):
    """Factory of what becomes of a probe on a few pictures, and what it was made of."""

    def make(
        name="test_vit",
        *,
        kind="logistic",
        arguments=None,
        width=None,
        checkpoint=None,
        objective=None,
        note=print,
        **recipe,
    ):
        backbone, train, validation = small(name, **(arguments or {})), tinted(24), tinted(15, seed=1)
        probe = probes.fit(kind, *embedded(backbone, train), *embedded(backbone, validation))
        weight, bias = linear_head(kind, probe.estimator, probe.temperature, CLASSES)
        head = Head(weight[:, :width], bias, CLASSES, 0.5)
        talk = {"objective": objective, "listener": Ear(note)}
        options = {"name": "tuned", "checkpoint": checkpoint, "workers": 1, **talk}
        made = promote(backbone, head, train, validation, Recipe(**{**QUICK, **recipe}), **options)
        return made, backbone, probe, train, validation

    return make


@pytest.mark.parametrize("kind", ["logistic", "ridge", "lda"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_epoch_0_has_the_probes_validation_figures(promoted, name, kind):
    made, backbone, probe, _, validation = promoted(name, kind=kind, epochs=1)
    X, y = embedded(backbone, validation)
    temperature = probes.fit_temperature(probes.decision_scores(probe.estimator, X), y, CLASSES)
    figures = probes.evaluate(probe.estimator, X, y, temperature)
    first = made.outcome.curve[0]
    assert (first["top1"], first["n"]) == (figures["top1"], 15)
    assert first["log_loss"] == pytest.approx(figures["log_loss"], abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"tune": "last-2"}, {"checkpointing": True}], ids=str)
@pytest.mark.parametrize(("name", "patience", "epoch"), [("test_resnet", 9, 2), ("test_vit", 9, 2), ("test_vit", 0, 3)])
def test_backbone_and_classifier_are_the_network_of_the_epoch_that_was_kept(promoted, name, patience, epoch, options):
    class Second(Classes):
        def better(self, curve, best):
            return len(curve) == 3  # epoch 2 is

    made, _, _, _, validation = promoted(name, objective=Second(), patience=patience, **options)
    assert made.outcome.best_epoch == epoch
    figures = probes.evaluate(made.estimator, *embedded(made.backbone, validation), made.temperature)
    kept = made.outcome.curve[epoch]
    assert figures["top1"] == kept["top1"]
    assert figures["log_loss"] == pytest.approx(kept["log_loss"], abs=1e-5)
    assert made.estimator.classes_.tolist() == CLASSES.tolist()
    assert made.estimator.C == 0.5


def test_the_backbone_that_is_given_stays_as_it_is_and_the_tuned_one_is_another(promoted):
    made, backbone, *_ = promoted(checkpointing=True)
    assert sha256_state_dict(backbone.module.state_dict()) == backbone.spec["weights"]
    assert made.backbone.spec["weights"] == sha256_state_dict(made.backbone.module.state_dict())
    assert made.backbone.fingerprint != backbone.fingerprint
    differ = {key for key in backbone.spec if backbone.spec[key] != made.backbone.spec[key]}
    assert differ == {"weights"}
    assert made.backbone.name == "tuned"
    for one in (backbone, made.backbone):
        assert not any(parameter.requires_grad for parameter in one.module.parameters())
        assert not any(part.training for part in one.module.modules())
        assert not any(getattr(part, "grad_checkpointing", False) for part in one.module.modules())


def test_a_tuned_head_alone_leaves_the_backbone_its_fingerprint(promoted):
    made, backbone, *_ = promoted(tune="head")
    assert made.backbone.fingerprint == backbone.fingerprint
    assert (made.tuned, made.parameters) == (0, sum(p.numel() for p in backbone.module.parameters()))


def test_tuned_parameters_are_counted(promoted):
    made, backbone, *_ = promoted("test_resnet", tune="last-1", epochs=1)
    assert made.tuned == sum(parameter.numel() for parameter in backbone.module.layer4.parameters())


def test_the_temperature_is_that_of_the_validation_images(promoted):
    made, _, _, _, validation = promoted()
    X, y = embedded(made.backbone, validation)
    scores = probes.decision_scores(made.estimator, X)
    assert made.temperature == pytest.approx(probes.fit_temperature(scores, y, CLASSES), rel=1e-3)


def test_batch_norms_that_learn_change_the_fingerprint_by_their_statistics_alone(promoted):
    made, backbone, *_ = promoted("test_resnet", batch_norm="train", lr=1e-12, epochs=1, weight_decay=0.0)
    before, after = backbone.module.state_dict(), made.backbone.module.state_dict()
    moved = [key for key in before if "running" in key and not torch.equal(before[key], after[key])]
    assert bool(moved) == (made.outcome.best_epoch == 1)


def test_a_head_of_another_width_is_refused(promoted):
    with pytest.raises(FinetuningError, match=r"the head takes 12 features and test_vit .* gives 64; give the model"):
        promoted(width=12)


@pytest.mark.parametrize("change", ["backbone", "head", "train", "validation", "recipe", "objective"])
def test_a_checkpoint_of_anything_else_is_not_gone_on_from(small, tinted, tmp_path, change):
    def run(changed=None):
        notes = []
        backbone = small("test_resnet", **({"drop_rate": 0.1} if changed == "backbone" else {}))
        weight = np.full((3, 96), 0.02 if changed == "head" else 0.01, np.float32)
        train, validation = tinted(8), tinted(6, seed=1)
        if changed in ("train", "validation"):
            part = train if changed == "train" else validation
            part.targets[:2] = part.targets[:2][::-1].copy()
        promote(
            backbone,
            Head(weight, np.zeros(3, np.float32), CLASSES, 1.0),
            train,
            validation,
            Recipe(**{**QUICK, "epochs": 1, "seed": int(changed == "recipe")}),
            name="x",
            objective=Other() if changed == "objective" else None,
            checkpoint=tmp_path / "c.pt",
            workers=1,
            listener=Ear(notes.append),
        )
        return next(note for note in notes if not note.startswith("note: "))

    class Other(Classes):
        """Loses as the default does, under a name of its own."""

    assert run().startswith("before tuning")
    assert run().startswith("continuing from")
    assert run(change).startswith("before tuning")


def test_classes_without_a_training_image_are_kept_apart(small, tinted):
    """A padded class is never the first at step 0."""
    backbone, train, validation = small(), tinted(24, 2), tinted(16, 2, seed=1)
    X, y = embedded(backbone, train)
    probe = probes.fit("logistic", X, y, value=1.0)
    weight, bias = linear_head("logistic", probe.estimator, 1.0, CLASSES)
    options = {"name": "x", "workers": 1}
    made = promote(backbone, Head(weight, bias, CLASSES, 1.0), train, validation, Recipe(**QUICK), **options)
    X, y = embedded(backbone, validation)
    assert made.outcome.curve[0]["top1"] == np.mean(probe.estimator.predict(X) == y)


def test_cached_batches_take_the_place_of_pixels(small, tinted):
    backbone, train, validation = small(), tinted(8), tinted(6, seed=1)
    asked = []

    class Fake:
        samples = train

        def __init__(self, copied):
            self.pixels = PixelBatches(train, copied.transform, Recipe(**QUICK), "cpu", 1)

        def __len__(self):
            return len(train)

        def epoch(self, number, first=0):
            asked.append(number)
            return self.pixels.epoch(number, first)

    def cached(copied):
        assert copied.module is not backbone.module
        validating = lambda: asked.append("validation") or in_order(validation, copied.transform, 4, "cpu", 1, Peers())  # noqa: E731
        return Cache(Fake(copied), validating, embedding_forward(copied, "fp32"))

    head = Head(np.zeros((3, 96), np.float32), np.zeros(3, np.float32), CLASSES, 1.0)
    options = {"name": "x", "workers": 1}
    found = promote(backbone, head, train, validation, Recipe(**QUICK), cached=cached, **options)
    wanted = promote(backbone, head, train, validation, Recipe(**QUICK), **options)
    assert [one for one in asked if one != "validation"] == [1, 2, 3]
    assert asked.count("validation") == 5  # after every epoch, and before; and for the temperature
    for one, other in zip(found.outcome.curve, wanted.outcome.curve, strict=True):
        assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-5)


def test_repeated_images_under_two_labels_do_no_harm(small, tinted):
    train = tinted(6)
    twice = Examples([*train.images, *train.images[:2]], np.r_[train.targets, (train.targets[:2] + 1) % 3])
    head = Head(np.zeros((3, 96), np.float32), np.zeros(3, np.float32), CLASSES, 1.0)
    made = promote(small(), head, twice, tinted(6, seed=1), Recipe(**QUICK), name="x", workers=1)
    assert made.outcome.finished
