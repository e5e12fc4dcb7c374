"""Logistic regression of patches by stochastic gradient descent, as DINOv2 and DINOv3 evaluate segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from featurepipe.errors import SegmentationError
from featurepipe.segmentation.closed import Patches

RATE, DECAY, BATCH = 1e-3, 1e-4, 16
WARM = 0.05  # share of the steps
Tokens = Callable[[np.ndarray], np.ndarray]  # numbers of pictures → tokens (b, h, w, D)


def logistic(
    read: Tokens, held: Sequence[np.ndarray], *, epochs: int, seed: int, progress: Callable[[int], object]
) -> Patches:
    """Batch norm and a 1×1 convolution, whose scores are interpolated to finer cells before the cross-entropy.

    AdamW, a batch of 16 pictures, the rate 0.001 after a linear warm-up and down to 0 by a cosine (Oquab et al. 2023,
    "DINOv2", and its segmentation heads). The batch norm is folded into the result.

    Parameters
    ----------
    read : callable
        Numbers of pictures (b,) → tokens (b, h, w, D).
    held : sequence of ndarray, each of shape (r·h, r·w, K)
        Shares of classes in the finer cells of each picture.
    epochs : int
    seed : int
        Order of the pictures, and first weights.
    progress : callable
        Called with the number of pictures just learned from.

    Raises
    ------
    SegmentationError
        The loss is not finite.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, classes = read(np.arange(1)).shape[-1], held[0].shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        norm, head = nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1)
        nn.init.normal_(head.weight, std=0.01)
        assert head.bias is not None
        nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW([*norm.parameters(), *head.parameters()], lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(held) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    rng = np.random.default_rng(seed)
    norm.train()
    for _ in range(epochs):
        order = rng.permutation(len(held))
        for start in range(0, len(order), BATCH):
            rows = np.sort(order[start : start + BATCH])
            tokens = torch.from_numpy(read(rows).astype(np.float32)).permute(0, 3, 1, 2)  # (b, D, h, w)
            wanted = torch.from_numpy(np.stack([held[row] for row in rows]).astype(np.float32))  # (b, R, C, K)
            scores = F.interpolate(head(norm(tokens)), wanted.shape[1:3], mode="bilinear", align_corners=False)
            counted = wanted.sum().clamp(min=1)
            loss = -(scores.log_softmax(1).permute(0, 2, 3, 1) * wanted).sum() / counted
            if not torch.isfinite(loss):
                raise SegmentationError("the loss of the logistic probe is not finite; use --kind ridge or lda")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(len(rows))
    return _folded(norm, head)


def _rate(done: float) -> float:
    """Share of the highest rate, by the share of the steps that are done."""
    if done < WARM:
        return done / WARM
    return float(0.5 * (1 + np.cos(np.pi * (done - WARM) / (1 - WARM))))


def _folded(norm: object, head: object) -> Patches:
    """The convolution with the batch norm in it, by its running mean and variance."""
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().numpy()  # type: ignore[attr-defined]
    shift = norm.bias.detach().double().numpy() - norm.running_mean.double().numpy() * scale  # type: ignore[attr-defined]
    weight = head.weight.detach().double().numpy()[:, :, 0, 0]  # type: ignore[attr-defined]
    return Patches(weight * scale, head.bias.detach().double().numpy() + weight @ shift)  # type: ignore[attr-defined]
