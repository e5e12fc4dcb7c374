"""A way to the neighbourhood of the optimum of many classes: L-BFGS in float32, on axes that are scaled alike.

Newton's method is what gets to an optimum; of many classes, each of its steps costs far more than a gradient does. So
most of the way is gone by gradients alone (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale
optimization", as SciPy has it), whose scores (n, K) are never kept. What was reached is for the caller to measure.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featurepipe.solvers.arrays import slices

MAX_STEPS = 100
MARGIN = 0.25  # of the tolerance: float64 and an exact intercept may see a little more of a gap


def descend(
    features: Callable[[slice], np.ndarray],
    codes: np.ndarray,
    w: np.ndarray,
    C: float,
    W: np.ndarray,
    curvatures: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, int]:
    """Softmax regression brought near its optimum.

    Parameters
    ----------
    features : callable
        Gives some rows on their axes, (m, r), in float32.
    codes : ndarray of int, shape (n,)
        Class numbers.
    w : ndarray, shape (n,)
        Weights of the rows.
    C : float
    W : ndarray of float64, shape (K, r + 1)
        Where to start; the last column is the intercept, which is not penalised.
    curvatures : ndarray of float64, shape (K, r + 1)
        Roughly the diagonal of the Hessian.
    tolerance : float
        Relative duality gap at which to stop; see `featurepipe.solvers.paths`.

    Returns
    -------
    ndarray of float64, shape (K, r + 1)
    int
        How often the gradient was computed.
    """
    from scipy.optimize import minimize

    root = np.sqrt(curvatures)
    evaluate, gap = _objective(features, codes, w.astype(np.float32), C, root)

    def stop_when_near(_: np.ndarray) -> None:
        if gap() <= MARGIN * tolerance:
            raise StopIteration

    options = {"maxiter": MAX_STEPS, "maxls": 20, "ftol": 0.0, "gtol": 0.0}
    found = minimize(
        evaluate, (W * root).ravel(), jac=True, method="L-BFGS-B", callback=stop_when_near, options=options
    )
    return found.x.reshape(W.shape) / root, int(found.nfev)


def _objective(
    features: Callable[[slice], np.ndarray], codes: np.ndarray, w: np.ndarray, C: float, root: np.ndarray
) -> tuple[Callable[[np.ndarray], tuple[float, np.ndarray]], Callable[[], float]]:
    """The objective and gradient at scaled coefficients (K (r + 1),), and the gap where it was asked last."""
    last = [np.inf]

    def evaluate(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        V = scaled.reshape(root.shape) / root  # (K, r + 1)
        coef, intercept = V[:, :-1].astype(np.float32), V[:, -1].astype(np.float32)
        value, G = 0.0, np.zeros(V.shape)
        for at in slices(len(codes), len(coef)):
            Z = features(at)  # (m, r)
            T = Z @ coef.T + intercept  # (m, K)
            T -= T.max(axis=1, keepdims=True)
            rows = np.arange(len(T))
            own = T[rows, codes[at]]
            np.exp(T, out=T)
            total = T.sum(axis=1)
            value += float((w[at] * (np.log(total) - own)).sum(dtype=np.float64))
            T *= (w[at] / total)[:, None]
            T[rows, codes[at]] -= w[at]
            G[:, :-1] += T.T @ Z
            G[:, -1] += T.sum(axis=0)
        value += float((V[:, :-1] ** 2).sum()) / (2 * C)
        G[:, :-1] += V[:, :-1] / C
        last[0] = C / 2 * float((G[:, :-1] ** 2).sum()) / value
        return value, (G / root).ravel()

    return evaluate, lambda: last[0]
