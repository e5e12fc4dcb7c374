"""One logistic fit of a given C, and the whole default path, at many classes, with scikit-learn on the same rows.

Features are drawn. Both get the same standardised rows; scikit-learn stops at its own tolerance (lbfgs, tol=1e-4), and
featurepipe at its own. The excess is how far scikit-learn's objective is above featurepipe's.

    python benchmarks/classes.py 10 100 1000
    python benchmarks/classes.py 1000 --width 1280 --strengths 0.001,0.1
    python benchmarks/classes.py 1000 --path

Seconds are of the processor, all threads together; set OMP_NUM_THREADS for fewer threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cpath import draw, objective
from rivals import machine, table

from featurepipe import probes
from featurepipe.solvers import LogisticPath


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", type=int, nargs="+", help="how many classes; several numbers one after another")
    parser.add_argument("--rows", type=int, default=5000, help="training rows")
    parser.add_argument("--width", type=int, default=112, help="features of a row")
    parser.add_argument("--strengths", default="0.1", help="values of C, with commas between them")
    parser.add_argument("--rounds", type=int, default=1, help="how often both run, in turn; the table has the medians")
    parser.add_argument("--path", action="store_true", help="run the default probe too: 9 values of C, 5 folds")
    return parser.parse_args()


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and what came out."""
    started = time.process_time()
    found = run()
    return time.process_time() - started, found


def compare(X: np.ndarray, y: np.ndarray, C: float, rounds: int) -> list[str]:
    """A row of the table: one fit of each, in turn."""
    from sklearn.linear_model import LogisticRegression

    Z = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    own, theirs = [], []
    for _ in range(rounds):
        seconds, fit = timed(lambda: next(LogisticPath(Z, y).fit([C])))
        own.append(seconds)
        seconds, model = timed(lambda: LogisticRegression(C=C, max_iter=1000).fit(Z, y))
        theirs.append(seconds)
    mine, its = fit.certificate.objective, objective(Z, y, model.coef_, model.intercept_, C)
    ours, other = statistics.median(own), statistics.median(theirs)
    row = [str(y.max() + 1), str(X.shape[1]), f"{C:g}", f"{ours:.2f}", f"{other:.2f}", f"{ours / other:.2f}"]
    return [*row, str(fit.certificate.products), f"{fit.certificate.gap:.0e}", f"{its / mine - 1:+.1e}"]


def main() -> None:
    """Measure and print."""
    options = parse()
    print(", ".join(str(value) for value in machine().values()) + " cores")
    head = [
        "classes",
        "width",
        "C",
        "featurepipe",
        "scikit-learn",
        "ratio",
        "products",
        "gap proven",
        "excess of latter",
    ]
    rows = [head]
    for classes in options.classes:
        X, y = draw(options.rows, options.width, classes)
        for C in map(float, options.strengths.split(",")):
            rows.append(compare(X, y, C, options.rounds))
            print(" · ".join(rows[-1]), flush=True)
        if options.path:
            seconds, probe = timed(lambda: probes.fit("logistic", X, y))  # noqa: B023 - called at once
            print(f"default probe, {classes} classes: {seconds:.1f} s, C={probe.chosen:g}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
