"""Methods that start from class names: each is a plain reference of its paper, and with no labels LP++ is zero-shot."""

from pathlib import Path

import numpy as np
import pytest
import torch
import wordy
from torch.nn.functional import cross_entropy

import featurepipe
from featurepipe import models, probes
from featurepipe.errors import ProbeError
from featurepipe.listeners import SILENT
from featurepipe.probes.shots import unit_rows
from featurepipe.probes.text_starts import METHODS, TextStart, lp_plus_plus
from featurepipe.vocabulary.names import TEXT_STARTS

CLASSES = np.array(["ant", "bee", "cat"])


@pytest.fixture
def few():
    """Class vectors that know something, and a few unit embeddings about them: start, F, codes, others."""
    rng = np.random.default_rng(0)
    means = unit_rows(rng.normal(size=(3, 12)))
    start = TextStart(CLASSES, unit_rows(means + 0.3 * rng.normal(size=(3, 12))), 20.0)
    codes = np.repeat(np.arange(3), 4)
    F, X = (unit_rows(means[some] + 0.25 * rng.normal(size=(len(some), 12))) for some in (codes, np.arange(60) % 3))
    return start, F, codes, X


def test_the_methods_are_those_that_are_named():
    assert list(METHODS) == list(TEXT_STARTS)


def test_tip_adapter_is_the_papers(few):
    start, F, codes, X = few
    f, keys, values = torch.tensor(X), torch.tensor(F), torch.nn.functional.one_hot(torch.tensor(codes)).double()
    affinity = f @ keys.T
    cache = ((-1) * (5.5 - 5.5 * affinity)).exp() @ values
    wanted = 20.0 * f @ torch.tensor(start.vectors).T + cache * 1.0
    np.testing.assert_allclose(METHODS["tip_adapter"](start, F, codes, 0)(X), wanted.numpy(), rtol=1e-9)


def test_tip_adapter_f_trains_its_keys(few):
    start, F, codes, X = few
    torch.manual_seed(0)
    adapter = torch.nn.Linear(12, len(F), bias=False)
    adapter.weight = torch.nn.Parameter(torch.tensor(F, dtype=torch.float32))
    images, targets = torch.tensor(F, dtype=torch.float32), torch.tensor(codes)
    values, text = torch.nn.functional.one_hot(targets).float(), torch.tensor(start.vectors.T, dtype=torch.float32)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.001, eps=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for _ in range(20):  # a single batch holds them all
        cache = (-(5.5 - 5.5 * adapter(images))).exp() @ values
        loss = cross_entropy(20.0 * images @ text + cache, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        pixels = torch.tensor(X, dtype=torch.float32)
        wanted = 20.0 * pixels @ text + (-(5.5 - 5.5 * adapter(pixels))).exp() @ values
    found = METHODS["tip_adapter_f"](start, F, codes, 0)(X)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(found - METHODS["tip_adapter"](start, F, codes, 0)(X)).max() > 1e-3


def test_lp_plus_plus_is_gradient_descent_with_the_papers_steps(few):
    start, F, codes, X = few
    images, text, targets = torch.tensor(F), torch.tensor(start.vectors.T), torch.tensor(codes)
    own = torch.stack([(images[targets == k] @ text[:, k]).mean() for k in range(3)])
    alpha = (250 * own.mean() * torch.ones(3, dtype=torch.float64)).requires_grad_()
    classifier = torch.nn.Linear(12, 3).double()
    with torch.no_grad():
        classifier.weight.copy_(torch.stack([images[targets == k].sum(0) for k in range(3)]))
        classifier.bias.zero_()
    rate = 4 * len(F) / torch.linalg.eigvalsh(images.T @ images).max().item()
    slow = len(F) / (4 * ((images @ text) ** 2).sum(0).max().item())
    optimizer = torch.optim.SGD(classifier.parameters(), rate, momentum=0.9)
    for step in range(1, 301):
        alpha.grad = None
        loss = cross_entropy(classifier(images) + alpha * (images @ text), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            alpha.data -= slow * alpha.grad
    with torch.no_grad():
        wanted = classifier(torch.tensor(X)) + alpha * (torch.tensor(X) @ text)
    np.testing.assert_allclose(lp_plus_plus(start, F, codes, 0)(X), wanted.numpy(), rtol=1e-6, atol=1e-6)


def test_without_labels_lp_plus_plus_is_zero_shot(few):
    start, F, codes, X = few
    found = lp_plus_plus(start, F[:0], codes[:0], 0)(X)
    np.testing.assert_array_equal(found, METHODS["zero_shot"](start, F, codes, 0)(X))
    np.testing.assert_allclose(found, 20.0 * X @ start.vectors.T)


def test_wise_ft_lies_half_way_and_fits_better_than_its_start(few):
    start, F, codes, X = few
    found, first = METHODS["wise_ft"](start, F, codes, 0)(X), METHODS["zero_shot"](start, F, codes, 0)(X)
    trained = 2 * found - first  # the other end of the line
    images, targets = torch.tensor(F), torch.tensor(codes)
    weights = (20.0 * torch.tensor(start.vectors)).requires_grad_()
    optimizer = torch.optim.SGD([weights], 2 * len(F) / np.linalg.norm(F, 2) ** 2, momentum=0.9)
    for _ in range(300):
        loss = cross_entropy(images @ weights.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(trained, (torch.tensor(X) @ weights.detach().T).numpy(), rtol=1e-6, atol=1e-6)
    assert loss < cross_entropy(images @ torch.tensor(20.0 * start.vectors).T, targets)


def test_the_lines_lie_next_to_the_probe_on_the_same_draws(few):
    start, _, _, _ = few
    rng = np.random.default_rng(1)
    y = CLASSES[np.arange(90) % 3]
    X = 3 * start.vectors[np.arange(90) % 3] + rng.normal(size=(90, 12))
    one, three = probes.fit_few_shot("ridge", X[:45], y[:45], X[45:], y[45:], shots=[1, 3], repeats=3, text=start)
    assert list(one["text"]) == list(TEXT_STARTS)
    assert one["text"]["zero_shot"]["top1"] == three["text"]["zero_shot"]["top1"]
    assert one["text"]["lp_plus_plus"]["mean"] > one["mean"]  # names help most where labels are fewest
    (alone,) = probes.fit_few_shot("ridge", X[:45], y[:45], X[45:], y[45:], shots=[1], repeats=3)
    assert alone["top1"] == one["top1"]
    assert "text" not in alone
    with pytest.raises(ProbeError, match=r"the zero-shot model has no class 'dog'; make it with all labels"):
        start.of(np.array(["ant", "dog"]))


@pytest.mark.slow
def test_probe_takes_a_model_of_class_names(photos, tmp_path):
    wordy.install()
    backbone = {"backbone": "wordy:test_resnet", "precision": "fp32", "device": "cpu", "listener": SILENT}
    text = featurepipe.zeroshot(["ant", "bee"], tmp_path / "z.safetensors", **backbone)["model"]
    data = photos(classes=("ant", "bee"), per_class=12)
    how = {"random_weights": True, "precision": "fp32", "device": "cpu", "listener": SILENT}
    store = featurepipe.extract(data, tmp_path / "s", backbone="test_resnet", **how)["store"]
    options = {"kind": "ridge", "baselines": "none", "shots": [2], "repeats": 2, "listener": SILENT}
    result = featurepipe.probe(store, tmp_path / "m.safetensors", text=text, **options)
    assert list(result["few_shot"][0]["text"]) == list(TEXT_STARTS)
    assert models.load(result["model"]).card.few_shot[0].text["wise_ft"].mean >= 0
    page = Path(featurepipe.report(result["model"], tmp_path / "m.html")["report"]).read_text("utf-8")
    assert all(name in page for name in TEXT_STARTS.values())
    other = featurepipe.extract(data, tmp_path / "o", backbone="pixels", **{**how, "random_weights": False})["store"]
    for where, more, says in (
        (other, {"text": text}, r"belongs to .*test_resnet.*and the embeddings are of pixels"),
        (store, {"text": result["model"]}, r"is a ridge model; make one of class names with: featurepipe zeroshot"),
        (store, {"text": text, "shots": []}, "need a number of labels per class"),
    ):
        with pytest.raises(ProbeError, match=says):
            featurepipe.probe(where, tmp_path / "n.safetensors", **{**options, **more})


def test_a_start_is_the_zero_shot_classifier_itself():
    made = probes.cosine_classifier(CLASSES, np.eye(3), 5.0)
    start = TextStart(made.classes_, made.vectors_, made.scale)
    X = unit_rows(np.random.default_rng(0).normal(size=(9, 3)))
    np.testing.assert_allclose(METHODS["zero_shot"](start, X, np.zeros(9, int), 0)(X), made.decision_function(X))
