"""Colorization: which colour a place has, from the picture in grey."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurepipe.errors import PretrainingError
from featurepipe.pretraining.bodies import Body, make_decoder
from featurepipe.pretraining.colors import BinTable, lab_of
from featurepipe.pretraining.objectives.pretext import Inputs, Pretext
from featurepipe.pretraining.pictures import Pictures
from featurepipe.vocabulary import PretrainOptions

COARSER = 4  # times, the colours that are guessed than the picture
COUNTED = 2048  # pictures that say how common colours are
PIECE = 16  # of them, whose colours are counted at once
GREY = 2.0  # of ab, to either side: what JPEG makes of grey is within


class Colorize(Pretext):
    """Classes of colour, more weight on rare ones, from lightness that is repeated to three channels.

    The *ab* of CIE Lab is cut into bins of 10×10; those that sRGB reaches are the classes
    (`featurepipe.pretraining.colors.gamut`). A place's class is spread over its five nearest bins, and each place
    counts the more the rarer its bin is in the data, as the paper has both.

    References
    ----------
    Zhang, Isola, Efros 2016, "Colorful Image Colorization".
    """

    def __init__(self, how: PretrainOptions, size: tuple[int, int], pictures: Pictures, extra: Any = None) -> None:
        super().__init__(how, size, pictures)
        self.coarse = (max(1, size[0] // COARSER), max(1, size[1] // COARSER))
        rows = np.sort(np.random.default_rng(how.seed).permutation(pictures.learned)[:COUNTED])
        self.bins = BinTable()
        counts, strongest = torch.zeros(len(self.bins), dtype=torch.int64), 0.0
        for start in range(
            0, len(rows), PIECE
        ):  # of all pictures at once, the distances to bins take tens of gigabytes
            pixels = pictures.take(rows[start : start + PIECE], "cpu").float() / 255
            ab = lab_of(pixels)[:, 1:]  # (b, 2, h, w)
            counts += self.bins.counts(ab)
            strongest = max(strongest, ab.abs().max().item())
        if strongest < GREY:
            raise PretrainingError(
                f"all {len(rows)} images looked at are grey, and the objective colorize learns from colours; choose "
                "another objective, such as autoencoder"
            )
        self.weights = self.bins.weights(counts)

    def make_head(self, body: Body) -> nn.Module:
        """A decoder of colours."""
        return make_decoder(body, len(self.bins), self.coarse)

    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """Lightness of a view of each, 0…1 (B, 3, H, W), and its coarse *ab*, (B, 2, h, w)."""
        lab = lab_of(self.views(pictures.take(rows, str(generator.device)), generator))
        return (lab[:, :1].expand(-1, 3, -1, -1) / 100,), F.adaptive_avg_pool2d(lab[:, 1:], self.coarse)

    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """Logits of bins, (B, Q, h, w)."""
        return head(body.maps(*inputs))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """The cross-entropy with spread classes, weighted by how rare they are; a mean over the places of a picture."""
        numbers, shares = self.bins.spread(targets)  # (B, h, w, 5) each
        told = outputs.log_softmax(1).movedim(1, -1).gather(-1, numbers)
        weights = self.weights.to(outputs.device)[numbers[..., 0]]  # (B, h, w), of the nearest bin
        return (-(told * shares).sum(-1) * weights).mean((1, 2)).sum(), float(len(targets))
