"""Random views of a whole batch at once, on tensors: crops, mirrors, colours, grey, blur.

The operations are those of SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", appendix A). What each image gets is drawn on its own; the arithmetic is one call for the batch. Hue
is turned in YIQ, where that is a rotation, so that all changes of colour are one 3×3 matrix for each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RATIO = 4 / 3  # of a crop's sides, from its inverse to this
JITTERED, GREYED, BLURRED = 0.8, 0.2, 0.5  # shares of the views
BLUR_FROM = 64  # pixels of the short side: a smaller picture has no detail to blur away
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey
YIQ = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])


@dataclass(frozen=True)
class Views:
    """What random views of a batch are like.

    Attributes
    ----------
    size : tuple of int
        Height and width of a view.
    least : float
        Smallest share of the picture that a crop keeps; 1 does not crop.
    mirrors : bool
        Whether half of the views are mirrored.
    strength : float
        How much colours change; 0 leaves them, 1 is SimCLR's for photos, and 0.5 the one for CIFAR-10.
    """

    size: tuple[int, int]
    least: float = 0.2
    mirrors: bool = True
    strength: float = 0.0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """One view of each picture.

        Parameters
        ----------
        pixels : torch.Tensor of uint8, shape (B, 3, h, w)
        generator : torch.Generator
            On the same device; its state decides the views.

        Returns
        -------
        torch.Tensor of float32, shape (B, 3, H, W)
            From 0 to 1.
        """
        made = self._crop(pixels.float() / 255, generator)
        if self.strength:
            made = _recolour(made, self.strength, generator)
            if min(self.size) >= BLUR_FROM:
                made = _blur(made, generator)
        return made

    def _crop(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Random resized crops, and mirrors."""
        count = len(pixels)

        def drawn(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator, device=pixels.device)

        area, ratio = drawn(self.least, 1), drawn(-math.log(RATIO), math.log(RATIO)).exp()
        if self.least == 1:
            ratio = torch.ones_like(ratio)
        # where one side is cut to the picture's, the other one alone has to keep the least share
        width, height = (side.sqrt().clamp(self.least, 1) for side in (area * ratio, area / ratio))
        theta = torch.zeros(count, 2, 3, device=pixels.device)  # places in the view → places in the picture
        theta[:, 0, 0], theta[:, 1, 1] = width, height
        theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * drawn(-1, 1), (1 - height) * drawn(-1, 1)
        if self.mirrors:
            theta[:, 0, 0] *= 2 * (drawn(0, 1) < 0.5).float() - 1
        grid = F.affine_grid(theta, [count, 3, *self.size], align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures as they are, uint8 (B, 3, h, w) → 0…1 (B, 3, H, W)."""
    floats = pixels.float() / 255
    if tuple(floats.shape[2:]) == tuple(size):
        return floats
    return F.interpolate(floats, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _recolour(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, saturation, hue and contrast of most views, and some in grey."""
    count, device = len(pixels), pixels.device

    def drawn(reach: float, middle: float = 1.0) -> Tensor:
        return middle + reach * strength * (2 * torch.rand(count, generator=generator, device=device) - 1)

    bright, contrast, saturation, turn = drawn(0.8), drawn(0.8), drawn(0.8), drawn(0.2, 0.0) * 2 * math.pi
    chances = torch.rand(2, count, generator=generator, device=device)
    still = chances[0] >= JITTERED
    bright, contrast, saturation = (torch.where(still, 1.0, one) for one in (bright, contrast, saturation))
    turn, saturation = torch.where(still, 0.0, turn), torch.where(chances[1] < GREYED, 0.0, saturation)
    to_yiq = YIQ.to(device)
    middle = torch.zeros(count, 3, 3, device=device)  # on (Y, I, Q)
    middle[:, 0, 0] = 1
    middle[:, 1, 1] = middle[:, 2, 2] = saturation * turn.cos()
    middle[:, 1, 2], middle[:, 2, 1] = -saturation * turn.sin(), saturation * turn.sin()
    matrix = (bright * contrast).view(-1, 1, 1) * (torch.linalg.inv(to_yiq) @ middle @ to_yiq)  # (B, 3, 3)
    grey = (pixels.mean((2, 3)) * to_yiq[0]).sum(1)  # (B,)
    offset = ((1 - contrast) * bright * grey).view(-1, 1, 1)
    flat = torch.baddbmm(offset, matrix, pixels.flatten(2))  # (B, 3, H·W)
    return flat.view_as(pixels).clamp(0, 1)


def _blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian blur of half of the views, by kernels of a tenth of their size and deviations of 0.1 to 2 pixels."""
    count, device = len(pixels), pixels.device
    chosen = torch.rand(count, generator=generator, device=device) < BLURRED
    deviation = 0.1 + 1.9 * torch.rand(count, generator=generator, device=device)
    some = pixels[chosen]
    if not len(some):
        return pixels
    reach = max(1, min(pixels.shape[2:]) // 20)
    steps = torch.arange(-reach, reach + 1, device=device)
    kernels = (-0.5 * (steps / deviation[chosen, None]) ** 2).exp()
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (3·b, k), one for each channel
    flat = F.pad(some.flatten(0, 1)[None], (reach,) * 4, mode="reflect")  # (1, 3·b, …)
    flat = F.conv2d(flat, kernels[:, None, None, :], groups=len(kernels))
    flat = F.conv2d(flat, kernels[:, None, :, None], groups=len(kernels))
    made = pixels.clone()
    made[chosen] = flat[0].view_as(some)
    return made
