"""The C path: L2-penalised logistic regression or linear SVM at every strength, each to its optimum, certified.

What makes it fast, of which nothing changes the answer beyond rounding:

- **Axes.** Features are centred and rotated to their principal axes. The penalty does not notice a rotation, and the
  intercept takes up the mean. Where there are fewer rows than features, the rows' span replaces the features. Axes
  below 1e-6 of the largest singular value, where float32 features hold rounding only, are left out.
- **Preconditioner.** On these axes the Hessian is close to A ⊗ diag(λ) + I/C, with A the mean covariance (K, K) of the
  predicted classes and λ the axes' sums of squares: rotated into A's eigenvectors it is a diagonal.
- **Newton's method with conjugate gradients** (Nocedal and Wright, Numerical Optimization, chapter 7): products in
  float32, gradients and objective in float64, each step solved only as exactly as the tolerance asks for. Labels or
  classes whose losses do not touch each other share the products, and have their own conjugate gradients.
- **Many classes.** From `MANY` on, L-BFGS in float32 goes most of the way (`solvers.descents`), as a step of
  Newton's costs many gradients there. No system of K equations is solved in float64: the intercepts have conjugate
  gradients of their own, A is decomposed in float32, and above `COUPLED` its diagonal replaces it. The tolerance is
  `LOOSE` there; each certificate still says in float64 what was reached. Of more than `ARRAY` rows × classes, L-BFGS
  goes the whole way, and scores exist only in blocks (`solvers.lean`).
- **Prediction.** The path is smooth in log C, so a fit starts where the line through its two neighbours points; that
  of the squared hinge bends wherever a row leaves the margin, and a fit starts from the one before it.

The certificate is a proof, not a stop rule: for the objective F = Σ wᵢ lossᵢ + ‖W‖²/(2C), with the intercept at its
optimum, the duality gap at the dual point C⁻¹·(Y − P) is C/2 · ‖∇F‖², so F - F* can be no larger (the dual is in Yu,
Huang and Lin 2011, "Dual coordinate descent methods for logistic regression and maximum entropy models"). For any
convex loss it is the bound that the penalty's strong convexity gives, with the intercept in W where it is penalised.
The gradient along the axes left out counts too: where one feature's scale is a million times another's, the smaller one
may be among them, and a fit that would need it does not count as converged. Standardise then (``scale=True``).

On a GPU all of this is the same, through torch (`featurepipe.solvers.arrays`): what has a row for each sample lies
there, and so does what is multiplied with it; the axes, and steps of K intercepts, are found in NumPy. It has never
been run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.solvers.arrays import (
    CPU,
    Array,
    check_device,
    copy,
    dots,
    double,
    host,
    memory_named,
    namespace,
    put,
    quotient,
    single,
    zeros,
)
from featurepipe.solvers.axes import Rotated
from featurepipe.solvers.descents import descend
from featurepipe.solvers.lean import Lean
from featurepipe.solvers.losses import Loss, Sigmoid, Softmax, SquaredHinge
from featurepipe.solvers.stacks import Matrix

TOLERANCE, LOOSE = 1e-7, 1e-3  # relative to the objective; of MANY classes or more
MANY, COUPLED = 65, 2048  # classes: from here on their systems are iterated; up to here A is decomposed
ARRAY = 2**25  # rows × classes; beyond, of many classes, no array of that size is kept: see `solvers.lean`
ROUNDED = 1e-12  # what float64 can do no better than, relative to the weights
BALANCE = 1e-5  # of the tolerance: what may be left of an intercept's slope, relative to the loss, or the weights
MAX_STEPS, MAX_PRODUCTS = 50, 1000  # Newton steps of a fit, conjugate gradients of a step
SCORES = 12  # arrays of float64 (n, K) at a time, at most
LOOSEST, TIGHTEST = 0.1, 1e-4  # how exactly a Newton step is solved; float32 products can do no better than the latter


@dataclass(frozen=True)
class Certificate:
    """What is known about a fit, whatever the solver thinks of it.

    Attributes
    ----------
    C : float
    objective : float
        Σ wᵢ lossᵢ + ‖W‖²/(2C) in float64: scikit-learn's objective over C.
    gradient_norm : float
        Norm of the objective's gradient, in float64, along the axes that are kept.
    gap : float
        Proven bound on (objective - optimum) / objective.
    steps, products : int
        Newton steps, and products with the Hessian; of many rows and classes (`solvers.lean`) gradients instead.
    converged : bool
        Whether the gap is within the tolerance, and the intercept at its optimum; of `solvers.lean`, whose gap holds
        for any intercept, the former.
    """

    C: float
    objective: float
    gradient_norm: float
    gap: float
    steps: int
    products: int
    converged: bool


@dataclass(frozen=True)
class Fit:
    """One point of a path.

    Attributes
    ----------
    coef : ndarray of float64, shape (K, D), or (1, D) for two classes
        For the features as they were given.
    intercept : ndarray of float64, shape (K,) or (1,)
    certificate : Certificate
    """

    coef: np.ndarray
    intercept: np.ndarray
    certificate: Certificate


class LogisticPath:
    """Logistic regression of one data set at any number of C, each fit starting from those before.

    Parameters
    ----------
    X : ndarray of float32 or float64, or Stack, shape (n, D)
        Only read; a memory map will do.
    Y : ndarray, shape (n,) or (n, K)
        Class numbers 0…K-1 of which each occurs, or a matrix of 0 and 1: one column per label (multi-label).
    sample_weight : ndarray, shape (n,), or (n, K) with a matrix Y, optional
        Not negative. One column per label weighs the losses alone, not the features where they are standardised.
    scale : bool
        Whether features are standardised first (by `feature_scales`), which changes what is penalised; the coefficients
        are for X all the same.
    tolerance : float, optional
        Largest gap of a certificate; by default `TOLERANCE`, with `MANY` classes or more `LOOSE`.
    keep : bool
        Whether the rotated features are kept, as float32 (n, min(n, D)); without them every product reads X. On another
        device than ``cpu`` they always are, and so is a copy of X.
    device : str
        ``cpu``, or torch's name of another, such as ``cuda`` or ``cuda:1``, with float64. Never run on a GPU: tested
        with torch's own ``cpu:0``.

    Raises
    ------
    ProbeError
        A single class, values that are not finite, shapes that do not fit; or a device that is not there, has no
        float64 (``mps``), or too little memory.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    >>> fits = [fit for fit in LogisticPath(X, y).fit([0.01, 1.0])]
    >>> [fit.coef.shape for fit in fits], all(fit.certificate.converged for fit in fits)
    ([(3, 5), (3, 5)], True)
    """

    def __init__(
        self,
        X: Matrix,
        Y: np.ndarray,
        *,
        sample_weight: np.ndarray | None = None,
        scale: bool = False,
        tolerance: float | None = None,
        keep: bool = True,
        device: str = CPU,
    ) -> None:
        check_device(device)
        self._device = device
        self._lean: Lean | None = None
        if device == CPU and type(self) is LogisticPath and is_lean(np.asarray(Y)):
            self._lean = _lean(X, np.asarray(Y), sample_weight, scale, LOOSE if tolerance is None else tolerance, keep)
            return
        self._loss, targets = self._targets(np.asarray(Y), len(X))  # (n, K)
        self._many = not self._loss.separate and targets.shape[1] >= MANY
        self._coupled = not self._loss.separate and targets.shape[1] <= COUPLED  # in the preconditioner
        self._tolerance = (LOOSE if self._many else TOLERANCE) if tolerance is None else tolerance
        self._penalised = slice(None) if self._loss.penalises_intercept else slice(-1)  # columns of (K, r + 1)
        w = np.ones((len(X), 1)) if sample_weight is None else _weights(sample_weight, np.asarray(Y).shape)
        self._total = float(w.sum(axis=0).min())  # of each label's weights, where they differ
        weighs_rows = sample_weight is not None and np.ndim(sample_weight) == 1
        self._bytes = _bytes_needed(X, targets.shape[1])
        with memory_named(device, self._bytes):
            self._Y = put(targets, device)
            self._w = 1.0 if sample_weight is None else put(w, device)  # (n, 1) or (n, K)
            weights = put(w[:, 0] if weighs_rows else np.ones(len(X)), device)
            self._rows = Rotated(X, weights, scale=scale, keep=keep, device=device)
        self._solved: list[tuple[float, Array, Array]] = []  # log C, coefficients (K, r + 1), scores (n, K)

    @staticmethod
    def _targets(Y: np.ndarray, rows: int) -> tuple[Loss, np.ndarray]:
        return _logistic_targets(Y, rows)

    def fit(self, strengths: Iterable[float]) -> Iterator[Fit]:
        """Fit one C after another, lazily: what is not asked for is not computed.

        Parameters
        ----------
        strengths : iterable of float
            Ascending ones are fastest.

        Yields
        ------
        Fit
        """
        for C in strengths:
            if not 0 < C < np.inf:
                raise ProbeError(f"C must be above 0 and finite; got {C}")
            if self._lean is not None:
                yield self._lean_fit(self._lean, float(C))
                continue
            with memory_named(self._device, self._bytes):
                W, S, certificate = self._solve(float(C), *self._start(float(C)))
                self._solved = [*self._solved[-1:], (float(np.log(C)), W, S)]
                found = self._rows.unrotated(W)
            yield Fit(*found, certificate)

    @staticmethod
    def _lean_fit(path: Lean, C: float) -> Fit:
        W, (objective, norm, gap, passes) = path.solve(C)
        return Fit(*path.rows.unrotated(W), Certificate(C, objective, norm, gap, passes, passes, gap <= path.tolerance))

    def _start(self, C: float) -> tuple[Array, Array]:
        """Coefficients (K, r + 1) to start from, the last column the intercept, and their scores (n, K)."""
        Y = self._Y
        starts = [(zeros((Y.shape[1], self._rows.rank + 1), Y), zeros(Y.shape, Y))]
        if self._solved:
            at, W, S = self._solved[-1]
            before, V, T = self._solved[0]
            starts.append((W, S))
            if before != at and self._loss.smooth:
                t = (float(np.log(C)) - at) / (at - before)
                starts.append((W + t * (W - V), S + t * (S - T)))
        return min(starts, key=lambda pair: self._objective(pair[0], pair[1], C))

    def _objective(self, W: Array, S: Array, C: float) -> float:
        return self._loss.value(S, self._Y, self._w) + float((W[:, self._penalised] ** 2).sum()) / (2 * C)

    def _solve(self, C: float, W: Array, S: Array) -> tuple[Array, Array, Certificate]:
        """Newton's method from W (K, r + 1) and its scores S (n, K); both at the optimum, and its certificate."""
        steps = products = 0
        if self._many and self._rows.kept is not None and self._device == CPU:
            W, S = self._near(C, W)
        while True:
            W, S, P, balanced = self._balance(W, S)
            objective = self._objective(W, S, C)
            G, lost = self._rows.backward(self._w * (P - self._Y))  # (K, r + 1)
            G[:, self._penalised] += W[:, self._penalised] / C
            gap = C / 2 * float((G[:, self._penalised] ** 2).sum()) / objective
            if gap <= self._tolerance or steps == MAX_STEPS:
                break
            wanted = 0.5 * np.sqrt(self._tolerance / gap)  # of the gradient's norm: what this step must leave of it
            direction, count = self._direction(G, P, C, min(LOOSEST, max(TIGHTEST, wanted)))
            steps, products = steps + 1, products + count
            length, shift = self._search(W, S, direction, objective, float((G * direction).sum()), C)
            if length == 0:  # rounding leaves nothing to gain
                break
            W, S = W + length * direction, S + length * shift
        norm, gap = float(namespace(G).linalg.norm(G)), gap + C / 2 * lost / objective
        converged = balanced and gap <= self._tolerance
        return W, S, Certificate(C, objective, norm, gap, steps, products, converged)

    def _near(self, C: float, W: Array) -> tuple[Array, Array]:
        """Coefficients near the optimum, from W (K, r + 1), and their scores (n, K)."""
        w = np.broadcast_to(self._w, (len(self._Y), 1))[:, 0].astype(np.float32)
        codes = self._Y.argmax(axis=1)
        shares = (w @ self._Y) / self._rows.weight  # (K,)
        spread = shares * (1 - shares)
        curvatures = spread[:, None] * np.append(self._rows.squares, self._rows.weight)  # (K, r + 1)
        curvatures[:, :-1] += 1 / C
        assert self._rows.kept is not None  # else there is no such start
        W, _ = descend(self._rows.kept.__getitem__, codes, w, C, W, curvatures, self._tolerance)
        return W, self._rows.forward(W)

    def _balance(self, W: Array, S: Array) -> tuple[Array, Array, Array, bool]:
        """Bring a free intercept to its optimum, which the certificate rests on.

        W, S, the estimates P (n, K), and whether it is there.
        """
        P = self._loss.estimates(S, self._Y)
        if self._loss.penalises_intercept:
            return W, S, P, True
        W, S = copy(W), copy(S)
        lost = min(self._total, self._loss.value(S, self._Y, self._w)) if self._many else self._total
        enough = max(BALANCE * self._tolerance * lost, ROUNDED * self._total)
        for _ in range(MAX_STEPS):
            g = host((self._w * (P - self._Y)).sum(axis=0))  # (K,)
            if np.abs(g).max() <= enough:
                return W, S, P, True
            step = put(np.clip(self._intercept_step(P, g), -2.0, 2.0), self._device)  # a full one may leap away
            W[:, -1] += step
            S += step
            P = self._loss.estimates(S, self._Y)
        return W, S, P, False

    def _intercept_step(self, P: Array, g: np.ndarray) -> np.ndarray:
        """Newton's step of the intercepts alone, (K,), from their gradient (K,)."""
        curvatures = np.maximum(host(self._loss.curvatures(P, self._Y, self._w)), 1e-300)
        if self._loss.separate:
            return -g / curvatures
        assert isinstance(self._loss, Softmax)  # no other loss joins its columns
        if self._many:
            return -self._loss.solve(P, self._w, g, curvatures)
        A = self._loss.covariance(P, self._Y, self._w)  # (K, K)
        scale = 1 / np.sqrt(np.diag(A))  # or a rare label's curvature passes for rounding
        return -scale * np.linalg.lstsq(scale[:, None] * A * scale, scale * g, rcond=None)[0]

    def _direction(self, G: Array, P: Array, C: float, exactness: float) -> tuple[Array, int]:
        """Newton's direction by preconditioned conjugate gradients, (K, r + 1), and the number of products it took."""
        precondition, bend = self._preconditioner(P, C), self._loss.curvature(P, self._Y, self._w)
        ridge = float(np.float32(1 / C))

        def product(v: Array) -> Array:
            out = self._rows.bent32(v, bend, P)
            out[:, self._penalised] += ridge * v[:, self._penalised]
            return out

        dot = dots if self._loss.separate else _dot  # columns that do not touch each other: one system each
        size = float(namespace(G).linalg.norm(G))  # float32 must not underflow
        residual = single(-G / size)
        x = zeros(residual.shape, residual)
        z = precondition(residual)
        q, rz = z, dot(residual, z)  # (K, 1) or (1, 1), as all of these numbers
        target = exactness**2 * rz.mean()
        for count in range(MAX_PRODUCTS):
            unsolved = rz > target
            if not unsolved.any():
                return size * double(x), count
            h = product(q)
            curved = dot(q, h)
            if (unsolved & ~(curved > 0)).any():  # rounding: what has been found so far still descends
                return size * double(x if count else z), count + 1
            length = quotient(rz, curved, unsolved)
            x = x + length * q
            residual = residual - length * h
            z = precondition(residual)
            rz, before = dot(residual, z), rz
            q = z + quotient(rz, before, unsolved) * q
        return size * double(x), MAX_PRODUCTS

    def _preconditioner(self, P: Array, C: float) -> Callable[[Array], Array]:
        """The inverse of A ⊗ diag(λ) + I/C, with A the mean covariance of the predictions, on (K, r + 1)."""
        if self._coupled:
            assert isinstance(self._loss, Softmax)
            A = self._loss.covariance(P, self._Y, self._w, rounded=self._many) / self._rows.weight
            a, U = np.linalg.eigh(A)
            U = put(U.astype(np.float32, copy=False), self._device)
        else:
            a, U = host(self._loss.curvatures(P, self._Y, self._w)) / self._rows.weight, None
        a = put(np.maximum(a, 1e-30), self._device)  # rounding
        inverse = zeros((len(a), self._rows.rank + 1), a)
        inverse[:, :-1] = 1 / (a[:, None] * self._rows.squares + 1 / C)
        inverse[:, -1] = 1 / (self._rows.weight * a + (1 / C if self._loss.penalises_intercept else 0))
        inverse = single(inverse)
        return lambda v: inverse * v if U is None else U @ (inverse * (U.T @ v))

    def _search(
        self, W: Array, S: Array, direction: Array, objective: float, slope: float, C: float
    ) -> tuple[float, Array]:
        """The longest of the steps 1, 1/2, 1/4, … that descends enough, or 0; and the change of scores (n, K)."""
        shift = self._rows.forward(direction)
        length = 1.0
        while length > 1e-9:
            if self._objective(W + length * direction, S + length * shift, C) <= objective + 1e-4 * length * slope:
                return length, shift
            length /= 2
        return 0.0, shift


class SvmPath(LogisticPath):
    """Linear SVMs of one data set at any number of C, to the optimum of scikit-learn's LinearSVC.

    The loss is the squared hinge, one class against the rest (two classes: the second against the first), and the
    intercept is penalised, for features about their mean. Parameters, errors and methods as of `LogisticPath`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    >>> [fit.coef.shape for fit in SvmPath(X, y).fit([0.01, 1.0])]
    [(3, 5), (3, 5)]
    """

    @staticmethod
    def _targets(Y: np.ndarray, rows: int) -> tuple[Loss, np.ndarray]:
        return SquaredHinge(), _logistic_targets(Y, rows)[1]


def _logistic_targets(Y: np.ndarray, rows: int) -> tuple[Loss, np.ndarray]:
    """The logistic loss of these targets, and them as a matrix (n, K) of 0 and 1."""
    if len(Y) != rows:
        raise ProbeError(f"{rows} rows of features, but {len(Y)} targets")
    if Y.ndim == 2:
        if not np.isin(Y, (0, 1)).all():
            raise ProbeError("a matrix of labels holds 0 and 1 only")
        return Sigmoid(), Y.astype(np.float64)
    classes = _check_codes(Y, rows)
    if classes == 2:
        return Sigmoid(), Y[:, None].astype(np.float64)
    return Softmax(), np.eye(classes)[Y]


def _check_codes(Y: np.ndarray, rows: int) -> int:
    """How many classes there are; ProbeError unless numbers (n,) are 0…K-1, of which each occurs."""
    if len(Y) != rows:
        raise ProbeError(f"{rows} rows of features, but {len(Y)} targets")
    found = np.unique(Y)
    classes = len(found)
    if classes < 2:
        raise ProbeError("a classifier needs at least two classes")
    if not np.array_equal(found, np.arange(classes)):
        raise ProbeError(f"class numbers are 0 to {classes - 1}, each of which occurs; got {found[:8].tolist()}")
    return classes


def is_lean(Y: np.ndarray) -> bool:
    """Whether class numbers (n,) need a path that keeps no array of rows × classes."""
    classes = len(np.unique(Y)) if Y.ndim == 1 else 0
    return classes >= MANY and len(Y) * classes > ARRAY


def _lean(
    X: Matrix, Y: np.ndarray, sample_weight: np.ndarray | None, scale: bool, tolerance: float, keep: bool
) -> Lean:
    """The path of many rows and classes."""
    classes = _check_codes(Y, len(X))
    w = np.ones(len(X)) if sample_weight is None else _weights(sample_weight, Y.shape)[:, 0]
    return Lean(Rotated(X, w, scale=scale, keep=keep), Y, classes, w, tolerance)


def _weights(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sample weights as a column (n, 1), or as (n, K), of targets of that shape."""
    found = np.asarray(weights, float)
    fits = found.shape in (shape, shape[:1]) and np.isfinite(found).all()
    if not fits or found.min() < 0 or not found.any(axis=0).all():
        raise ProbeError(f"sample_weight is one number for each of {shape[0]} rows, none below 0 and not all 0")
    return found.reshape(len(found), -1)


def _dot(a: Array, b: Array) -> Array:
    """The sum of products, (1, 1), in float64."""
    return dots(a, b).sum().reshape(1, 1)


def _bytes_needed(X: Matrix, columns: int) -> int:
    """About how much a path takes on a device of its own: X, its rotation in float32, and scores."""
    n, width = X.shape
    each = np.result_type(X[:0].dtype, np.float32).itemsize
    return n * (width * each + min(n, width) * 4 + columns * SCORES * 8)
