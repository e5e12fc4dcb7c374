"""Few labels on top of class names: methods that start from the zero-shot classifier of a text tower.

All of them take embeddings of unit length and a unit vector for each class, and give scores. Nothing is chosen on data:
strengths and lengths are the papers' fixed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featurepipe.errors import ProbeError

ALPHA, BETA = 1.0, 5.5  # of Tip-Adapter: weight of the cache, and how sharply it looks
RATE, STABLE, EPOCHS, BATCH = 1e-3, 1e-4, 20, 256  # of Tip-Adapter-F's AdamW
STEPS, MOMENTUM = 300, 0.9  # of gradient descent in LP++ and WiSE-FT
EACH = 10  # steps of LP++'s prototypes for one of its blending parameters
START = 250.0  # of LP++: what the mean cosine with the own class's text is multiplied by
BLEND = 0.5  # of WiSE-FT: share of the trained weights

Scores = Callable[[np.ndarray], np.ndarray]  # unit embeddings (m, D) → scores (m, K)


@dataclass(frozen=True)
class TextStart:
    """A zero-shot classifier to start from.

    Attributes
    ----------
    classes : ndarray, shape (K,)
        Sorted.
    vectors : ndarray of float64, shape (K, D)
        Vectors of unit length.
    scale : float
        What cosines are multiplied by.
    """

    classes: np.ndarray
    vectors: np.ndarray
    scale: float

    def of(self, classes: np.ndarray) -> TextStart:
        """The same for some of its classes.

        Raises
        ------
        ProbeError
            It does not have one of them.
        """
        place = {str(label): number for number, label in enumerate(self.classes.tolist())}
        lacking = [label for label in map(str, classes.tolist()) if label not in place]
        if lacking:
            raise ProbeError(
                f"the zero-shot model has no class {lacking[0]!r}; make it with all labels of the data: featurepipe "
                f"zeroshot {','.join(map(str, classes.tolist()[:3]))},… (LABEL=WORDS where prompts need other words)"
            )
        return TextStart(classes, self.vectors[[place[str(label)] for label in classes.tolist()]], self.scale)


Method = Callable[[TextStart, np.ndarray, np.ndarray, int], Scores]


def zero_shot(start: TextStart, F: np.ndarray, codes: np.ndarray, seed: int) -> Scores:
    """Scaled cosines with the class vectors; no label is used."""
    return lambda X: start.scale * (X @ start.vectors.T)


def tip_adapter(start: TextStart, F: np.ndarray, codes: np.ndarray, seed: int) -> Scores:
    """Zero-shot scores plus votes of the labelled images, each exp(-5.5 (1 - cosine)); nothing is trained.

    Zhang et al. 2022, "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", with the paper's own
    alpha of 1 and beta of 5.5, which it searches on validation data where there are any.
    """
    return _cached(start, F, codes)


def tip_adapter_f(start: TextStart, F: np.ndarray, codes: np.ndarray, seed: int) -> Scores:
    """Tip-Adapter, whose keys are then trained: AdamW with rate 0.001 and a cosine schedule over 20 epochs."""
    import torch
    from torch.nn.functional import cross_entropy

    keys = torch.tensor(F, dtype=torch.float32, requires_grad=True)  # (n, D)
    pixels, targets = torch.tensor(F, dtype=torch.float32), torch.from_numpy(codes)
    text = start.scale * pixels @ torch.tensor(start.vectors.T, dtype=torch.float32)  # (n, K)
    votes = torch.eye(len(start.classes))[targets]  # (n, K)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([keys], lr=RATE, eps=STABLE)
    batches = -(-len(codes) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(codes), generator=generator).split(BATCH):
            near = (BETA * (pixels[rows] @ keys.T - 1)).exp()  # (b, n)
            loss = cross_entropy(text[rows] + ALPHA * near @ votes, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return _cached(start, keys.detach().double().numpy(), codes)


def _cached(start: TextStart, keys: np.ndarray, codes: np.ndarray) -> Scores:
    votes = np.eye(len(start.classes))[codes]  # (n, K)
    return lambda X: start.scale * (X @ start.vectors.T) + ALPHA * np.exp(BETA * (X @ keys.T - 1)) @ votes


def lp_plus_plus(start: TextStart, F: np.ndarray, codes: np.ndarray, seed: int) -> Scores:
    """A linear probe whose weights are a prototype plus a learned multiple of the class's text vector.

    Huang et al. 2024, "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP": cross-entropy; prototypes begin as
    the sums of their class's images, and go down with the step size 4 n / (greatest eigenvalue of F'F) and momentum 0.9
    for 300 steps; after every tenth, the multiples go down by their own gradient with n / (4 greatest sum of squared
    cosines with a text). The last step counts. (The authors' program adds up the multiples' gradients over all steps
    and takes the step that is best on validation data; here each is its own, and no such data are needed.) Without any
    label it is zero-shot.
    """
    if not len(codes):
        return zero_shot(start, F, codes, seed)
    cosines = F @ start.vectors.T  # (n, K)
    truth = np.eye(len(start.classes))[codes]
    counts = np.maximum(truth.sum(0), 1)
    multiples = np.full(len(start.classes), START * np.mean((truth * cosines).sum(0) / counts))
    weights, speed, bias, bias_speed = truth.T @ F, 0.0, np.zeros(len(start.classes)), 0.0
    rate = 4 * len(F) / np.linalg.norm(F, 2) ** 2
    slow = len(F) / (4 * (cosines**2).sum(0).max())
    for step in range(1, STEPS + 1):
        error = (_softmax(F @ weights.T + bias + multiples * cosines) - truth) / len(F)  # (n, K)
        speed, bias_speed = MOMENTUM * speed + error.T @ F, MOMENTUM * bias_speed + error.sum(0)
        weights, bias = weights - rate * speed, bias - rate * bias_speed
        if step % EACH == 0:
            multiples = multiples - slow * (error * cosines).sum(0)
    return lambda X: X @ weights.T + bias + multiples * (X @ start.vectors.T)


def wise_ft(start: TextStart, F: np.ndarray, codes: np.ndarray, seed: int) -> Scores:
    """The mean of the zero-shot weights and of these weights after training on the labels.

    Wortsman et al. 2022, "Robust Fine-tuning of Zero-shot Models", with its alpha of 0.5, on a linear classifier:
    cross-entropy from the zero-shot weights on, 300 steps of gradient descent with momentum 0.9 and the step size 2 n /
    (greatest eigenvalue of F'F), the inverse of the gradient's Lipschitz constant.
    """
    first = start.scale * start.vectors
    weights, speed = first, 0.0
    truth = np.eye(len(start.classes))[codes]
    rate = 2 * len(F) / np.linalg.norm(F, 2) ** 2
    for _ in range(STEPS):
        speed = MOMENTUM * speed + (_softmax(F @ weights.T) - truth).T @ F / len(F)
        weights = weights - rate * speed
    blended = (1 - BLEND) * first + BLEND * weights
    return lambda X: X @ blended.T


def _softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


METHODS: dict[str, Method] = {
    "zero_shot": zero_shot,
    "tip_adapter": tip_adapter,
    "tip_adapter_f": tip_adapter_f,
    "lp_plus_plus": lp_plus_plus,
    "wise_ft": wise_ft,
}
