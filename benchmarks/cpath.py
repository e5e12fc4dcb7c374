"""The logistic C path beside scikit-learn's: 45 values from 1e-6 to 1e5, on the same features, in one run.

scikit-learn fits each C from scratch (lbfgs, float32 features, at most 1000 iterations), as published protocols do.
Every objective is computed anew in float64, and the one C that each would choose on held-out rows is compared.

    python benchmarks/cpath.py --features features.npz
    python benchmarks/cpath.py --rows 20000 --width 768 --classes 100 --every 11
    python benchmarks/cpath.py --grow

`features.npz` comes from `featurepipe export`; without it features are drawn. ``--every K`` lets scikit-learn fit
only every K-th C, where all would take hours; featurepipe always fits all. ``--device cuda`` gives featurepipe a GPU,
on which it has never been run; the seconds include the way of the features there, not torch's own start.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rivals import machine, table
from scipy.special import logsumexp

from featurepipe.solvers import LogisticPath, check_device

STRENGTHS = np.logspace(-6, 5, 45)
HELD_OUT = 0.2
ADD_ONS = ("cv", "intelex")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help=".npz with X and labels")
    parser.add_argument("--rows", type=int, default=4000, help="training rows")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="scikit-learn fits every so many-th C")
    parser.add_argument("--rounds", type=int, default=1, help="of featurepipe, before and after scikit-learn's")
    parser.add_argument("--also", action="append", default=[], choices=ADD_ONS, help="LogisticRegressionCV; its add-on")
    parser.add_argument("--tolerance", type=float, help="of featurepipe's certificate  [default: its own]")
    parser.add_argument("--device", default="cpu", help="of featurepipe: cpu, cuda, cuda:1")
    parser.add_argument("--grow", action="store_true", help="only featurepipe, on growing rows, widths and classes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure")
    return parser.parse_args()


def draw(rows: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features like a network's: not negative, correlated, classes that overlap; X float32 (rows, width), y (rows,)."""
    rng = np.random.default_rng(seed)
    latent = max(16, width // 4)
    mix = rng.normal(size=(latent, width)) * np.logspace(0, -1.5, latent)[:, None]
    y = rng.integers(0, classes, rows)
    y[:classes] = np.arange(classes)
    centres = rng.normal(size=(classes, latent)) * 0.9
    X = np.empty((rows, width), np.float32)
    for start in range(0, rows, 10_000):
        at = slice(start, start + 10_000)
        hidden = centres[y[at]] + rng.normal(size=(len(y[at]), latent))
        X[at] = np.maximum(hidden @ mix + 0.2 * rng.normal(size=(len(hidden), width)), 0)
    return X, y


def load(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and held-out features and class numbers."""
    count = round(options.rows / (1 - HELD_OUT))
    if options.features:
        held = np.load(options.features)
        X, y = held["X"], np.unique(held["labels"], return_inverse=True)[1]
        order = np.random.default_rng(0).permutation(len(X))[:count]
        X, y = X[order], y[order]
    else:
        X, y = draw(count, options.width, options.classes)
    return X[: options.rows], y[: options.rows], X[options.rows :], y[options.rows :]


def objective(X: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, C: float) -> float:
    """Σ loss + ‖W‖²/(2C) in float64, of softmax for three classes or more."""
    scores = X.astype(np.float64) @ coef.T.astype(np.float64) + intercept  # (n, K)
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
    return float(losses.sum() + (coef.astype(np.float64) ** 2).sum() / (2 * C))


def ours(X: np.ndarray, y: np.ndarray, options: argparse.Namespace) -> tuple[float, list]:
    """Seconds, and the fits."""
    how = {} if options.tolerance is None else {"tolerance": options.tolerance}
    started = time.perf_counter()
    fits = list(LogisticPath(X, y, device=options.device, **how).fit(STRENGTHS))
    return time.perf_counter() - started, fits


def scikit_learns(X: np.ndarray, y: np.ndarray, strengths: np.ndarray) -> list[dict]:
    """What scikit-learn's own fits of each C, from scratch, give and take."""
    from sklearn.linear_model import LogisticRegression

    found = []
    for C in strengths:
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = LogisticRegression(C=C, max_iter=1000).fit(X, y)
        seconds = time.perf_counter() - started
        found.append({"C": C, "seconds": seconds, "model": model, "converged": not caught})
        print(f"scikit-learn C={C:.1e}: {seconds:.1f} s, {int(model.n_iter_[0])} iterations", flush=True)
    return found


def converged(X: np.ndarray, y: np.ndarray, C: float) -> object:
    """scikit-learn's fit of one C when it is given all the time that it needs."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, solver="newton-cg", tol=1e-10, max_iter=100_000).fit(X.astype(np.float64), y)


def cross_validated(X: np.ndarray, y: np.ndarray) -> float:
    """Seconds of LogisticRegressionCV, which walks the path warm, on one split of the rows."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import ShuffleSplit

    split = ShuffleSplit(1, test_size=HELD_OUT, random_state=0)
    options = {"use_legacy_attributes": False} if "use_legacy_attributes" in LogisticRegressionCV().get_params() else {}
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LogisticRegressionCV(Cs=STRENGTHS, cv=split, max_iter=1000, refit=False, **options).fit(X, y)
    return time.perf_counter() - started


def intelex(X: np.ndarray, y: np.ndarray, strengths: np.ndarray) -> float:
    """Seconds of scikit-learn-intelex, fitting each C from scratch."""
    from sklearnex.linear_model import LogisticRegression

    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for C in strengths:
            LogisticRegression(C=C, max_iter=1000).fit(X, y)
    return time.perf_counter() - started


def chosen(scores: list[float], strengths: np.ndarray) -> float:
    """The C of the best held-out accuracy, the smallest of equal ones."""
    return float(strengths[int(np.argmax(scores))])


def compare(options: argparse.Namespace) -> dict:
    """Run everyone, print the table."""
    X, y, V, v = load(options)
    picked = np.arange(0, len(STRENGTHS), options.every)
    print(f"{len(X):,} × {X.shape[1]:,} × {y.max() + 1} classes, {len(V):,} rows held out", flush=True)
    times = [ours(X, y, options) for _ in range(options.rounds)]
    theirs = scikit_learns(X, y, STRENGTHS[picked])
    times += [ours(X, y, options) for _ in range(options.rounds)]
    fits = times[-1][1]
    rows = [["C", "featurepipe", "scikit-learn", "excess of the latter", "gap proven", "products", "same predictions"]]
    excess = []
    for at, other in zip(picked, theirs, strict=True):
        fit, model, C = fits[at], other["model"], STRENGTHS[at]
        mine, its = objective(X, y, fit.coef, fit.intercept, C), objective(X, y, model.coef_, model.intercept_, C)
        excess.append(its / mine - 1)
        same = np.mean((V @ fit.coef.T + fit.intercept).argmax(1) == model.predict(V))
        certificate = fit.certificate
        note = "" if other["converged"] else " (stopped)"
        rows.append(
            [
                f"{C:.1e}",
                f"{mine:.6g}",
                f"{its:.6g}{note}",
                f"{excess[-1]:+.1e}",
                f"{certificate.gap:.0e}",
                str(certificate.products),
                f"{100 * same:.2f} %",
            ]
        )
    accuracy = [float(np.mean((V @ fit.coef.T + fit.intercept).argmax(1) == v)) for fit in fits]
    others = [float(np.mean(other["model"].predict(V) == v)) for other in theirs]
    own, slow = statistics.median(seconds for seconds, _ in times), sum(other["seconds"] for other in theirs)
    print(table(rows))
    print(f"least excess of scikit-learn over featurepipe: {min(excess):+.1e}; greatest {max(excess):+.1e}")
    print(f"featurepipe: {own:.1f} s for {len(STRENGTHS)} ({', '.join(f'{s:.1f}' for s, _ in times)})")
    print(f"scikit-learn: {slow:.1f} s for {len(picked)}; {slow / own:.1f}× featurepipe's time for all")
    best = chosen([accuracy[at] for at in picked], STRENGTHS[picked])
    print(f"chosen among the same C on the held-out rows: {best:.2e}, and {chosen(others, STRENGTHS[picked]):.2e}")
    at = int(np.argmin(np.abs(STRENGTHS - best)))
    patient = converged(X, y, best)
    guesses = [(V @ fits[at].coef.T + fits[at].intercept).argmax(1), patient.predict(V)]
    guesses.append(theirs[int(np.flatnonzero(picked == at)[0])]["model"].predict(V))
    own_same, their_same = (float(np.mean(guessed == guesses[1])) for guessed in (guesses[0], guesses[2]))
    print(
        f"there, predictions as scikit-learn's in float64 with tol=1e-10: featurepipe {100 * own_same:.2f} %, "
        f"scikit-learn as above {100 * their_same:.2f} %"
    )
    result = {
        "device": options.device,
        "seconds": [s for s, _ in times],
        "scikit-learn": slow,
        "fitted": len(picked),
        "excess": excess,
    }
    result |= {"chosen": best, "same_as_patient": own_same, "theirs_same_as_patient": their_same}
    if "cv" in options.also:
        result["cv"] = cross_validated(X, y)
        print(f"LogisticRegressionCV, one split: {result['cv']:.1f} s; {result['cv'] / own:.1f}×", flush=True)
    if "intelex" in options.also:
        result["intelex"] = intelex(X, y, STRENGTHS[picked])
        print(f"scikit-learn-intelex: {result['intelex']:.1f} s for {len(picked)}; {result['intelex'] / own:.1f}×")
    return result


def grow(options: argparse.Namespace) -> dict:
    """How featurepipe's time grows."""
    shapes = [(2000, 512, 10), (4000, 512, 10), (8000, 512, 10), (4000, 256, 10), (4000, 1024, 10)]
    shapes += [(4000, 512, 30), (4000, 512, 100)]
    rows, found = [["rows", "width", "classes", "seconds", "products", "steps", "ms/product", "converged"]], {}
    for shape in shapes:
        seconds, fits = ours(*draw(*shape), options)
        products, steps = (sum(getattr(fit.certificate, key) for fit in fits) for key in ("products", "steps"))
        whole = sum(fit.certificate.converged for fit in fits)
        rows.append([*map(str, shape), f"{seconds:.1f}", str(products), str(steps), f"{1e3 * seconds / products:.1f}"])
        rows[-1].append(f"{whole} of {len(fits)}")
        found[" × ".join(map(str, shape))] = seconds
    print(table(rows))
    return found


def main() -> None:
    """Measure and print."""
    options = parse()
    check_device(options.device)
    measure: Callable[[argparse.Namespace], dict] = grow if options.grow else compare
    print(", ".join(str(value) for value in machine().values()) + " cores")
    result = measure(options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak memory of this process: {peak:.0f} MB")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "result": result}, indent=1))


if __name__ == "__main__":
    main()
