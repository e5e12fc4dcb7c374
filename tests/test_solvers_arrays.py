"""The C path in torch gives the answers of NumPy: on torch's own ``cpu:0``, and on a GPU where there is one."""

import numpy as np
import pytest
import torch

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.solvers import LogisticPath, Stack, SvmPath, arrays

STRENGTHS = np.logspace(-5, 3, 5)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=needs_cuda)])


def features(n, width, classes, dtype=np.float32):
    """Correlated features with a large mean; every class occurs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) / np.sqrt(width) + 3
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    X[:, 0] += y
    return X.astype(dtype), y


def softmax():
    return LogisticPath, *features(300, 40, 5), {}


def two_classes():
    return LogisticPath, *features(200, 20, 2), {}


def labels():
    X, y = features(300, 40, 5)
    return LogisticPath, X, np.stack([y == 0, y > 2, y % 2 == 0], axis=1).astype(int), {"scale": True}


def weighted_labels():
    weight = np.random.default_rng(1).random((300, 3)) * (1, 10, 100)
    return *labels()[:3], {"sample_weight": weight}


def margins():
    return SvmPath, *features(200, 30, 4), {"scale": True}


def weights():
    weight = np.random.default_rng(1).random(300)
    weight[::7] = 0
    return LogisticPath, *features(300, 40, 5), {"sample_weight": weight, "scale": True}


def more_features_than_rows():
    return LogisticPath, *features(60, 100, 4), {"scale": True}


def float64():
    return LogisticPath, *features(200, 30, 3, dtype=np.float64), {}


CASES = [softmax, two_classes, labels, weighted_labels, margins, weights, more_features_than_rows, float64]


@pytest.mark.slow
@DEVICES
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_device_gives_numpys_answers_and_certificates(case, device):
    path, X, Y, options = case()
    here = path(X, Y, tolerance=1e-11, **options).fit(STRENGTHS)
    for fit, other in zip(here, path(X, Y, tolerance=1e-11, device=device, **options).fit(STRENGTHS), strict=True):
        assert other.certificate.converged
        assert other.certificate.gap <= 1e-11
        assert other.certificate.objective == pytest.approx(fit.certificate.objective, rel=1e-10)
        for found, wanted in ((other.coef, fit.coef), (other.intercept, fit.intercept)):
            assert isinstance(found, np.ndarray)
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@DEVICES
def test_a_device_holds_the_rows_in_float32_and_their_scores_in_float64(device):
    X, y = features(300, 40, 5)
    path = LogisticPath(X, y, device=device, keep=False)  # a working copy is kept there all the same
    fit = next(path.fit([1.0]))
    (_, W, S), kept = path._solved[-1], path._rows.kept
    assert fit.certificate.converged
    for tensor, dtype, shape in (
        (path._rows._X, torch.float32, (300, 40)),
        (kept, torch.float32, (300, 40)),
        (S, torch.float64, (300, 5)),
        (W, torch.float64, (5, 41)),
        (path._rows.bent32(W.float(), lambda T, at: T, S), torch.float32, (5, 41)),
    ):
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
        assert tensor.device.type == device.partition(":")[0]


@DEVICES
def test_rows_that_only_lie_on_disk_and_picked_ones_reach_a_device(tmp_path, device):
    X, y = features(300, 40, 3)
    np.save(tmp_path / "X.npy", X)
    mapped, picked = np.load(tmp_path / "X.npy", mmap_mode="r"), np.arange(0, 300, 2)
    for rows, which in ((mapped, slice(None)), (Stack(mapped).take(picked), picked)):
        fit = next(LogisticPath(X[which], y[which], tolerance=1e-10).fit([1.0]))
        other = next(LogisticPath(rows, y[which], tolerance=1e-10, device=device).fit([1.0]))
        np.testing.assert_allclose(other.coef, fit.coef, rtol=0, atol=1e-4 * np.abs(fit.coef).max())


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64])
def test_features_of_other_types_are_taken_exactly(dtype):
    X, y = features(200, 10, 3)
    X = (10 * X + 50).astype(dtype)
    fit, other = (next(LogisticPath(X, y, tolerance=1e-10, device=device).fit([0.1])) for device in ("cpu", "cpu:0"))
    np.testing.assert_allclose(other.coef, fit.coef, rtol=0, atol=1e-4 * np.abs(fit.coef).max())


@pytest.mark.slow
@DEVICES
@pytest.mark.parametrize("kind", [kind for kind in probes.names("on_devices") if probes.KINDS[kind].reads == "vectors"])
def test_a_probe_is_chosen_and_fitted_on_a_device(kind, device):
    X, y = features(150, 12, 3)
    here, there = (probes.fit(kind, X, y, class_weight="balanced", device=at) for at in ("cpu", device))
    assert there.chosen == here.chosen
    assert there.certificate.converged
    np.testing.assert_array_equal(there.estimator.predict(X), here.estimator.predict(X))
    assert [step["top1"] for step in there.path] == [step["top1"] for step in here.path]


@pytest.mark.slow
@DEVICES
def test_sets_of_labels_are_fitted_on_a_device(device):
    X, y = features(120, 8, 4)
    sets = np.array([";", "up", "right", "right;up"])[y]
    here, there = (probes.fit_labels(X, sets, device=at) for at in ("cpu", device))
    assert there.chosen == here.chosen
    np.testing.assert_array_equal(there.estimator.predict(X), here.estimator.predict(X))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mps", "device 'mps' has no float64, which a certificate needs; use cpu"),
        ("mps:0", "has no float64"),
        ("abacus", "device 'abacus' cannot be used here .*; use cpu"),
        ("cuda:99", "device 'cuda:99' cannot be used here .*; use cpu"),
        ("meta", "device 'meta' cannot be used here .*; use cpu"),
        ("auto", "device 'auto' cannot be used here .*; use cpu"),
    ],
)
def test_a_device_that_cannot_be_used_is_said_in_one_line(device, message):
    X, y = features(20, 5, 2)
    for fit in (lambda: LogisticPath(X, y, device=device), lambda: probes.fit("svm", X, y, device=device)):
        with pytest.raises(ProbeError, match=message) as caught:
            fit()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(probes.KINDS) - set(probes.names("on_devices"))))
def test_kinds_without_a_path_have_no_device(kind):
    with pytest.raises(ProbeError, match=f"a {kind} probe is fitted on the cpu, not on cuda; .*logistic, svm"):
        probes.fit(kind, *features(20, 5, 2), device="cuda")


class Failing(Stack):
    """Rows that cannot be put anywhere."""

    def __init__(self, X, error):
        super().__init__(X)
        self.error = error

    def __getitem__(self, at):
        if at != slice(0):  # which says what type they are of
            raise self.error
        return super().__getitem__(at)


TOO_LITTLE = pytest.raises(ProbeError, match=r"'cpu:0' has too little memory: .* about 0\.00078 GB there; use cpu$")
NO_MEMORY = pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])


@NO_MEMORY
def test_a_device_without_memory_is_said_with_what_it_would_take(error):
    X, y = features(1000, 50, 4)
    with TOO_LITTLE:
        LogisticPath(Failing(X, error), y, device="cpu:0")


@NO_MEMORY
def test_a_device_without_memory_for_a_fit_is_said_too(monkeypatch, error):
    def fail(*_):
        raise error

    path = LogisticPath(*features(1000, 50, 4), device="cpu:0")
    monkeypatch.setattr(path._rows, "bent32", fail)
    with TOO_LITTLE:
        next(path.fit([10.0]))


@DEVICES
def test_each_function_does_on_a_device_what_it_does_in_numpy(device):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 1000)).astype(np.float32), rng.normal(size=(4, 1000)).astype(np.float32)
    columns, where = np.array([[3], [0], [999], [7]]), np.array([[True], [False], [True], [False]])
    for function, inputs in (
        (arrays.dots, (x, y)),
        (arrays.along_rows, (x, columns)),
        (arrays.expit, (x.astype(float),)),
        (arrays.quotient, (x[:, :1].astype(float), np.where(where, y[:, :1].astype(float), 0), where)),
        (arrays.double, (x,)),
        (arrays.single, (x.astype(float),)),
    ):
        wanted, found = function(*inputs), arrays.host(function(*(arrays.put(one, device) for one in inputs)))
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=1e-6 if wanted.dtype == np.float32 else 1e-12)


def test_other_failures_keep_their_own_words():
    X, y = features(20, 5, 2)
    with pytest.raises(RuntimeError, match="no such kernel"):
        LogisticPath(Failing(X, RuntimeError("no such kernel")), y, device="cpu:0")
    with pytest.raises(MemoryError), arrays.memory_named("cpu", 1):
        raise MemoryError


def test_reversed_views_are_taken_as_they_read():
    X, y = features(60, 8, 3)
    weight = np.linspace(1, 2, 60)
    fits = [
        next(LogisticPath(*rows, sample_weight=w, device="cpu:0").fit([1.0]))
        for rows, w in (((X[::-1], y[::-1]), weight[::-1]), ((X[::-1].copy(), y[::-1].copy()), weight[::-1].copy()))
    ]
    np.testing.assert_array_equal(fits[0].coef, fits[1].coef)
