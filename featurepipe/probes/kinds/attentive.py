"""Attention over tokens, then a linear classifier: which patches count is learned, and not only what they say.

"Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency" (Psomas et al., ICLR 2026): M learned
queries attend to the tokens themselves, without projections of queries and keys. Each gives a mean of the tokens,
weighed by its own attention, and one M-th of a linear projection of that mean. A linear classifier reads all M.

Training starts from the linear probe on the mean token: the queries are nearly zero, so the attention is nearly even,
the projection is the identity, and the classifier is zero. Features are standardised as that probe's are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.kind import TOKENS, Fitted, Kind, check_shapes, numbers
from featurepipe.solvers import Matrix, weighted_moments
from featurepipe.statistics import feature_scales, is_constant

if TYPE_CHECKING:
    import torch

QUERIES = 8  # at most: as many as divide the width of a token
EPOCHS, STEPS = 40, 600  # of which the one counts that is more
BATCH, RATE, WARM_UP = 64, 3e-3, 0.1
DECAY_GRID = (0.1, 1.0, 10.0, 100.0)
PIECE_BYTES = 2**24  # of tokens in float64 at a time


@dataclass(frozen=True, kw_only=True)
class Attentive(Kind):
    """Multi-query attention without projections of queries and keys, at each weight decay alpha of AdamW."""

    name: str = "attentive"
    since: str = "1.3"
    holds_scores: bool = True
    tensors: tuple[str, ...] = ("head.queries", "head.values", "head.weight", "head.bias")
    parameter: str | None = "alpha"
    grid: tuple[float | None, ...] = DECAY_GRID
    on_devices: bool = True
    reads: str = TOKENS
    weighs_rows: bool = False

    def fit(
        self,
        X: Matrix,
        y: np.ndarray,
        candidates: Sequence[float | None],
        weights: np.ndarray | None,
        *,
        seed: int,
        keep: bool,
        device: str,
    ) -> Iterable[Fitted]:
        """See `Kind.fit`; X is (n, H, W, D)."""
        classes, codes = np.unique(y, return_inverse=True)
        w = np.ones(len(y)) if weights is None else weights
        mean, scale = _standard(X, w)
        found = _train(X, codes, w, mean, scale, list(numbers(candidates)), seed, device)
        return [(_folded(classes, arrays, mean, scale), None) for arrays in found]

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """Queries (M, D), values (V, D), weights (K, V) and biases (K,) of the classes."""
        return estimator.queries_, estimator.values_, estimator.coef_, estimator.intercept_

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        queries, values, weight, bias = arrays
        fits = queries.ndim == values.ndim == 2 and queries.shape[1] == values.shape[1]
        fits = fits and len(queries) > 0 and len(values) % max(1, len(queries)) == 0
        shapes = ((len(classes), len(values)), (len(classes),))
        check_shapes(len(classes), arrays, fits and (weight.shape, bias.shape) == shapes)
        return AttentiveClassifier(classes, *(one.astype(np.float64) for one in arrays))


@dataclass(frozen=True)
class AttentiveClassifier:
    """A fitted attentive probe for raw tokens, (n, H, W, D) or (n, T, D), in any order.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
    queries_ : ndarray, shape (M, D)
        The attention of a query is the softmax, over the tokens, of its products with them.
    values_ : ndarray, shape (V, D)
        The m-th of M parts of its rows projects the mean of the tokens by the m-th query's attention.
    coef_, intercept_ : ndarray, shapes (K, V) and (K,)
    """

    classes_: np.ndarray
    queries_: np.ndarray
    values_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray

    @property
    def n_features_in_(self) -> int:
        """Width of a token."""
        return self.queries_.shape[1]

    def attention(self, X: np.ndarray) -> np.ndarray:
        """How much each query attends to each token, (n, M, T): it adds up to 1 over the tokens.

        Parameters
        ----------
        X : ndarray, shape (n, H, W, D) or (n, T, D)
        """
        x = self._tokens(X)
        logits = self.queries_ @ x.transpose(0, 2, 1)  # (n, M, T)
        logits -= logits.max(axis=2, keepdims=True)
        weights = np.exp(logits)
        return weights / weights.sum(axis=2, keepdims=True)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores (n, K), whose softmax is `predict_proba`; of two classes the second's minus the first's, (n,)."""
        x = self._tokens(X)
        heads = len(self.queries_)
        means = self.attention(x) @ x  # (n, M, D)
        values = self.values_.reshape(heads, -1, x.shape[2])  # (M, V / M, D)
        pooled = np.einsum("nmd,mvd->nmv", means, values, optimize=True).reshape(len(x), -1)  # (n, V)
        scores = pooled @ self.coef_.T + self.intercept_
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities (n, K)."""
        from scipy.special import softmax

        scores = self.decision_function(X)
        return softmax(np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores, axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The likeliest class of each row, (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _tokens(self, X: np.ndarray) -> np.ndarray:
        X = np.asarray(X, np.float64)
        if X.ndim not in (3, 4) or X.shape[-1] != self.n_features_in_:
            raise ProbeError(f"this probe takes tokens of width {self.n_features_in_}, (n, H, W, D); got {X.shape}")
        return X.reshape(len(X), -1, X.shape[-1])


def attend(
    x: torch.Tensor, queries: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Scores of tokens by several probes at once.

    Projecting is linear, so the weighed mean is projected, and not every token: that costs a T-th.

    Parameters
    ----------
    x : Tensor, shape (B, T, D)
    queries : Tensor, shape (A, M, D)
        M queries for each of A probes.
    values : Tensor, shape (A, M, V / M, D)
    weight : Tensor, shape (A, K, V)
    bias : Tensor, shape (A, K)

    Returns
    -------
    Tensor, shape (A, B, K)
    """
    probes, heads, width = queries.shape
    attention = (x @ queries.reshape(-1, width).T).softmax(dim=1)  # (B, T, A·M)
    means = (attention.transpose(1, 2) @ x).unflatten(1, (probes, heads))  # (B, A, M, D)
    pooled = (means.permute(1, 2, 0, 3) @ values.transpose(2, 3)).transpose(1, 2).flatten(2)  # (A, B, V)
    return pooled @ weight.transpose(1, 2) + bias[:, None]


def _standard(X: Matrix, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale (D,) of the mean tokens of all rows, as of the features of a linear probe."""
    step = max(1, PIECE_BYTES // (8 * math.prod(X.shape[1:])))
    pieces = (np.asarray(X[at : at + step], np.float64) for at in range(0, len(X), step))
    means = np.concatenate([piece.reshape(len(piece), -1, X.shape[-1]).mean(axis=1) for piece in pieces])  # (n, D)
    mean, deviations = weighted_moments(means, weights)
    return mean, feature_scales(deviations, is_constant(deviations, mean), len(means))


def _train(
    X: Matrix,
    codes: np.ndarray,
    weights: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    decays: Sequence[float],
    seed: int,
    device: str,
) -> list[list[np.ndarray]]:
    """Queries, values, weights and biases for standardised tokens, of a probe of each weight decay.

    All see the same batches, so that the tokens are read once: AdamW, a cosine from `RATE` to 0 after a short rise.
    """
    import torch

    shift, factor = (torch.tensor(one, dtype=torch.float32, device=device) for one in (mean, 1 / scale))
    targets = torch.tensor(codes, device=device)
    costs = torch.tensor(weights / weights.mean(), dtype=torch.float32, device=device)
    parameters = _initial(X.shape[-1], int(codes.max()) + 1, len(decays), seed, device)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)  # which differs from probe to probe
    each = math.ceil(len(X) / BATCH)
    epochs = max(EPOCHS, math.ceil(STEPS / each))
    steps = epochs * each
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    shrinking = torch.tensor(decays, dtype=torch.float32, device=device)
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(X))
        for start in range(0, len(X), BATCH):
            rows = order[start : start + BATCH]
            x = torch.from_numpy(np.asarray(X[rows], np.float32)).to(device)
            x = (x.flatten(1, -2) - shift) * factor  # (B, T, D)
            scores = attend(x, *parameters)  # (A, B, K)
            at = torch.from_numpy(rows).to(device)
            some = targets[at].expand(len(decays), -1)
            loss = torch.nn.functional.cross_entropy(scores.permute(1, 2, 0), some.T, reduction="none")  # (B, A)
            optimizer.zero_grad()
            (loss * costs[at, None]).mean(dim=0).sum().backward()
            _shrink(parameters[:3], 1 - schedule.get_last_lr()[0] * shrinking)
            optimizer.step()
            schedule.step()
    found = [one.detach().cpu().double().numpy() for one in parameters]
    return [[one[number] for one in found] for number in range(len(decays))]


def _initial(width: int, classes: int, probes: int, seed: int, device: str) -> list[torch.Tensor]:
    """The start of `probes` equal probes: nearly even attention, the identity, and a classifier of zeros."""
    import torch

    heads = next(count for count in range(min(QUERIES, width), 0, -1) if width % count == 0)
    drawn = torch.randn(heads, width, generator=torch.Generator().manual_seed(seed)) * (0.1 / width)
    values = torch.eye(width).reshape(heads, -1, width)
    start = (drawn, values, torch.zeros(classes, width), torch.zeros(classes))
    return [one.expand(probes, *one.shape).clone().to(device).requires_grad_() for one in start]


def _pace(step: int, steps: int) -> float:
    """The share of `RATE` at a step: a rise over the first tenth, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    return (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _shrink(parameters: Iterable[torch.Tensor], factors: torch.Tensor) -> None:
    """Decoupled weight decay (Loshchilov and Hutter 2019), for each probe its own."""
    import torch

    with torch.no_grad():
        for one in parameters:
            one.mul_(factors.clamp(min=0).view(-1, *[1] * (one.ndim - 1)))


def _folded(
    classes: np.ndarray, arrays: Sequence[np.ndarray], mean: np.ndarray, scale: np.ndarray
) -> AttentiveClassifier:
    """A probe for raw tokens: what standardising takes from a query's products is the same for all tokens, so the
    softmax does not see it, and since attention adds up to 1, values lose the same of every mean.
    """
    queries, values, weight, bias = arrays
    raw = values.reshape(-1, len(mean)) / scale  # (V, D)
    return AttentiveClassifier(classes, queries / scale, raw, weight, bias - weight @ (raw @ mean))
