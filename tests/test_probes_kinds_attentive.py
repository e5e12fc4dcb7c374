"""The attentive probe against plain PyTorch, and what attention is for."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds import attentive


def planted(n, *, seed=0, classes=3, width=12, grid=(3, 3)):
    """Each image has class contents in all tokens; only the one with a mark has that of its own label."""
    rng, count = np.random.default_rng(seed), grid[0] * grid[1]
    y = np.arange(n) % classes
    contents = 3 * np.eye(width)[1 : classes + 1]
    X = 0.5 * rng.normal(size=(n, count, width)) + contents[rng.integers(0, classes, (n, count))]
    marked = rng.integers(0, count, n)
    X[np.arange(n), marked] = 0.5 * rng.normal(size=(n, width)) + 4 * np.eye(width)[0] + contents[y]
    return X.reshape(n, *grid, width).astype(np.float32), np.array(["a", "b", "c"])[y]


@pytest.fixture(scope="module")
def fitted():
    X, y = planted(240)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attentive, "STEPS", 200)
        return probes.fit("attentive", X, y, *planted(60, seed=1), value=1.0)


def reference(x, queries, values, weight, bias):
    """As the paper draws it: every token is projected, then each query weighs its own part of the values."""
    parts = []
    for query, value in zip(queries, values, strict=True):
        attention = torch.softmax(torch.stack([token @ query for token in x.unbind(1)], 1), dim=1)  # (B, T)
        projected = torch.einsum("btd,vd->btv", x, value)
        parts.append((attention[:, :, None] * projected).sum(1))
    return torch.cat(parts, dim=1) @ weight.T + bias


@pytest.mark.parametrize(("probes_", "heads", "width", "classes"), [(1, 1, 4, 2), (3, 4, 8, 5)])
def test_scores_and_gradients_are_those_of_plain_pytorch(probes_, heads, width, classes):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 9, width, generator=generator, dtype=torch.float64)
    shapes = [(heads, width), (heads, width // heads, width), (classes, width), (classes,)]
    mine = [torch.randn(probes_, *s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    theirs = [one.detach().clone().requires_grad_() for one in mine]
    found = attentive.attend(x, *mine)
    wanted = torch.stack([reference(x, *one) for one in zip(*theirs, strict=True)])
    assert torch.allclose(found, wanted, atol=1e-10)
    targets = torch.arange(6) % classes
    for scores in (found, wanted):
        sum(torch.nn.functional.cross_entropy(one, targets) for one in scores).backward()
    for one, other in zip(mine, theirs, strict=True):
        assert one.grad.abs().max() > 0
        assert torch.allclose(one.grad, other.grad, atol=1e-10)


def test_a_class_that_one_token_carries_is_seen_by_attention_and_not_by_the_mean(fitted):
    T, truth = planted(300, seed=2)
    X, y = planted(240)
    mean = probes.fit("logistic", X.mean((1, 2)), y)
    assert np.mean(mean.estimator.predict(T.mean((1, 2))) == truth) < 0.6
    assert np.mean(probes.predict(fitted.estimator, T) == truth) > 0.9
    attention = fitted.estimator.attention(T)  # (n, M, T)
    assert np.allclose(attention.sum(axis=2), 1)
    marked = (T.reshape(300, 9, -1)[:, :, 0]).argmax(axis=1)
    assert attention.max(axis=1)[np.arange(300), marked].mean() > 0.5  # of one token in nine


def test_the_order_of_tokens_and_the_shape_of_the_grid_do_not_matter(fitted):
    T = planted(20, seed=4)[0]
    scores = fitted.estimator.decision_function(T)
    order = np.random.default_rng(0).permutation(9)
    shuffled = T.reshape(20, 9, -1)[:, order]
    assert np.allclose(fitted.estimator.decision_function(shuffled), scores)
    assert np.allclose(fitted.estimator.decision_function(shuffled.reshape(20, 1, 9, -1)), scores)
    assert np.allclose(fitted.estimator.predict_proba(T), softmax(scores, axis=1))
    assert np.allclose(fitted.predict_proba(T), softmax(scores / fitted.temperature, axis=1))


def test_standardising_is_folded_in(monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 12)
    monkeypatch.setattr(attentive, "EPOCHS", 2)
    X, y = planted(60)
    plain, stretched = (probes.KINDS["attentive"].fit_path(one, y, (1.0,))[0][0] for one in (X, 100 * X + 7))
    T = planted(30, seed=5)[0]
    found, wanted = stretched.decision_function(100 * T + 7), plain.decision_function(T)
    assert np.allclose(found, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_seeds_reproduce_and_each_alpha_is_what_it_is_alone(monkeypatch, classes):
    monkeypatch.setattr(attentive, "STEPS", 12)
    monkeypatch.setattr(attentive, "EPOCHS", 2)
    X, y = planted(90, classes=classes)
    kind = probes.KINDS["attentive"]
    first, again = (kind.fit_path(X, y, (0.1, 10.0), seed=4) for _ in range(2))
    for (one, _), (other, _) in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(kind.dump(one), kind.dump(other), strict=True))
    (alone, _), (other, _) = *kind.fit_path(X, y, (10.0,), seed=4), *kind.fit_path(X, y, (10.0,), seed=5)
    assert np.allclose(alone.decision_function(X), first[1][0].decision_function(X), atol=1e-3)
    assert not np.allclose(alone.decision_function(X), other.decision_function(X), atol=1e-3)
    weighted = kind.fit_path(X, y, (10.0,), seed=4, class_weight="balanced")[0][0]
    assert np.allclose(weighted.decision_function(X), alone.decision_function(X), atol=1e-3)  # all count alike here
    assert alone.decision_function(X).shape == ((90,) if classes == 2 else (90, 3))
    assert alone.predict(X).tolist() == alone.classes_[alone.predict_proba(X).argmax(1)].tolist()


def test_it_starts_as_even_attention_of_the_identity():
    queries, values, weight, bias = attentive._initial(12, 3, 2, 0, "cpu")
    assert (queries.shape, values.shape) == ((2, 6, 12), (2, 6, 2, 12))  # 6 divides 12, and 8 does not
    x = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(0))
    head = torch.eye(12).expand(2, 12, 12)
    assert torch.allclose(attentive.attend(x, queries, values, head, torch.zeros(2, 12)), x.mean(1), atol=0.1)
    assert not weight.any()
    assert not bias.any()


@pytest.mark.parametrize(
    ("kind", "shape", "says"),
    [
        ("attentive", (8, 12), "reads tokens, .* and got vectors.*extract DATA --tokens"),
        ("attentive", (8, 2, 2, 2, 3), "got"),
        ("logistic", (8, 2, 2, 3), "embeddings are"),
    ],
)
def test_the_wrong_shape_is_refused(kind, shape, says):
    with pytest.raises(ProbeError, match=says):
        probes.fit(kind, np.random.default_rng(0).normal(size=shape), np.arange(8) % 2)


def test_what_it_reads_is_a_trait():
    assert [kind for kind in probes.KINDS if probes.KINDS[kind].reads == "tokens"] == ["attentive"]


def test_tokens_of_another_width_are_refused(fitted):
    with pytest.raises(ProbeError, match="tokens of width 12"):
        fitted.estimator.predict(np.zeros((2, 3, 3, 11)))


@pytest.mark.parametrize(
    "change",
    [
        lambda q, v, w, b: (q[:, 1:], v, w, b),
        lambda q, v, w, b: (q, v[1:], w[:, 1:], b),
        lambda q, v, w, b: (q[:0], v, w, b),
        lambda q, v, w, b: (q, v, w[:2], b),
        lambda q, v, w, b: (q, v, w, b[:2]),
        lambda q, v, w, b: (q[0], v, w, b),
    ],
)
def test_arrays_that_do_not_fit_are_refused(fitted, change):
    kind = probes.KINDS["attentive"]
    arrays = kind.dump(fitted.estimator)
    made = kind.restore(fitted.classes, arrays, 1.0, 0)
    T = planted(5, seed=6)[0]
    assert np.array_equal(made.decision_function(T), fitted.estimator.decision_function(T))
    with pytest.raises(ValueError, match="does not fit"):
        kind.restore(fitted.classes, change(*arrays), 1.0, 0)


def test_few_shots_read_tokens_too(monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 5)
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    X, y = planted(60)
    found = probes.fit_few_shot("attentive", X, y, *planted(30, seed=1), shots=[2], repeats=2)
    assert len(found[0]["top1"]) == 2
