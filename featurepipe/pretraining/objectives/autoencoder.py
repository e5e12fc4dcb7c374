"""Autoencoder: a picture is restored from what is left of it; masked for vision transformers, denoising for others."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurepipe.pretraining.bodies import Body, make_decoder
from featurepipe.pretraining.objectives.pretext import Inputs, Pretext, numbered
from featurepipe.pretraining.pictures import Pictures

NOISE = 0.1  # deviation of the noise on pixels of 0…1
CELLS = 8  # rows and columns of the cells that a denoising autoencoder misses
ERASED = 0.25  # share of them
COARSER = 2  # times, what is restored than what is seen
DECODED, BLOCKS, HEADS = 128, 2, 4  # width, depth and heads of the masked autoencoder's decoder


class Autoencoder(Pretext):
    """Restores pictures: of a vision transformer those patches that it has not seen, of other networks all pixels.

    A vision transformer sees a quarter of the patches (`PretrainOptions.mask`), and two more blocks guess the
    others, each normalised by its own mean and deviation (He et al. 2022). Any other network sees noise and holes (an
    eighth of the picture a side), and a small convolutional decoder restores what was there at half the resolution
    (Vincent et al. 2008).

    References
    ----------
    He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners". Vincent et al. 2008, "Extracting and Composing
    Robust Features with Denoising Autoencoders".
    """

    reads: ClassVar[tuple[str, ...]] = ("crop", "mask")

    @property
    def _restored(self) -> tuple[int, int]:
        """The size in which pictures are restored: finer detail costs more than it teaches."""
        return max(1, self.size[0] // COARSER), max(1, self.size[1] // COARSER)

    def make_head(self, body: Body) -> nn.Module:
        """A decoder."""
        if is_maskable(body):
            return PatchDecoder(body)
        return make_decoder(body, 3, self._restored)

    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """A view of each, what is random about what it loses, and its row."""
        pixels = pictures.take(rows, str(generator.device))
        clean = self.views(pixels, generator)
        order = torch.rand(len(rows), CELLS * CELLS, generator=generator, device=pixels.device)
        noise = NOISE * torch.randn(clean.shape, generator=generator, device=pixels.device)
        return (clean, noise, order), numbered(rows, pixels.device)

    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """The error of each picture, (B,)."""
        clean, noise, order = inputs
        if isinstance(head, PatchDecoder):
            return masked_error(body, head, clean, self.how.mask)
        erased = (order < ERASED).float().view(-1, 1, CELLS, CELLS)
        holes = F.interpolate(erased, self.size, mode="nearest")  # (B, 1, H, W)
        seen = (clean + noise) * (1 - holes) + 0.5 * holes
        restored = head(body.maps(seen)).float()
        wanted = F.adaptive_avg_pool2d(body.normalise(clean), self._restored)
        return (restored - wanted).square().mean((1, 2, 3))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """The mean squared error."""
        return outputs.sum(), float(len(targets))


def is_maskable(body: Body) -> bool:
    """Whether a network is one of timm's plain vision transformers, which can be shown some of their patches.

    Others cut no patches of pixels: a hybrid one has a convolutional network below, whose output it cuts.
    """
    from timm.models import VisionTransformer

    if not isinstance(body.module, VisionTransformer) or not hasattr(body.module.patch_embed, "grid_size"):
        return False
    embed = body.module.patch_embed
    covered = [patch * places for patch, places in zip(embed.patch_size, embed.grid_size, strict=True)]
    return covered == list(body.size)


class PatchDecoder(nn.Module):
    """Guesses patches from the tokens of others: two blocks of a transformer above a shared token for what is hidden.

    Parameters
    ----------
    body : Body
    """

    def __init__(self, body: Body) -> None:
        from timm.layers import Mlp
        from timm.models.vision_transformer import Block

        super().__init__()
        embed = body.module.patch_embed
        self.patch, patches = embed.patch_size, embed.num_patches
        self.inwards = nn.Linear(body.module.embed_dim, DECODED)
        self.hidden = nn.Parameter(torch.zeros(1, 1, DECODED))
        self.places = nn.Parameter(0.02 * torch.randn(1, patches, DECODED))
        self.blocks = nn.Sequential(*(Block(DECODED, HEADS, 4.0, mlp_layer=Mlp) for _ in range(BLOCKS)))
        self.norm, self.outwards = nn.LayerNorm(DECODED), nn.Linear(DECODED, 3 * self.patch[0] * self.patch[1])

    def forward(self, tokens: Tensor, back: Tensor) -> Tensor:
        """Seen tokens (B, k, C), and the place of each patch among seen and then hidden ones (B, N) → (B, N, P)."""
        seen = self.inwards(tokens)
        hidden = self.hidden.expand(len(seen), back.shape[1] - seen.shape[1], -1).to(seen.dtype)
        found = torch.cat([seen, hidden], 1).gather(1, back[:, :, None].expand(-1, -1, DECODED))
        return self.outwards(self.norm(self.blocks(found + self.places)))

    def split(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) as patches (B, N, P), each with mean 0 and deviation 1."""
        flat = F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        return (flat - flat.mean(2, keepdim=True)) / (flat.var(2, keepdim=True) + 1e-6).sqrt()


def masked_error(body: Body, head: PatchDecoder, clean: Tensor, mask: float) -> Tensor:
    """The mean squared error of the patches that were hidden, for each picture of 0…1 (B, 3, H, W); torch's seed
    decides which.
    """
    module = body.module
    pixels = body.normalise(clean)
    tokens = module._pos_embed(module.patch_embed(pixels))  # (B, prefix + N, C)
    prefix = module.num_prefix_tokens
    count = tokens.shape[1] - prefix
    kept = max(1, min(count - 1, round((1 - mask) * count)))  # there is something to see, and something to guess
    order = torch.rand(len(tokens), count, device=tokens.device).argsort(1)
    seen = tokens[:, prefix:].gather(1, order[:, :kept, None].expand(-1, -1, tokens.shape[2]))
    found = module.norm(module.blocks(module.norm_pre(torch.cat([tokens[:, :prefix], seen], 1))))
    guessed = head(found[:, prefix:], order.argsort(1)).float()
    error = (guessed - head.split(pixels)).square().mean(2)  # (B, N)
    hidden = torch.ones_like(error).scatter_(1, order[:, :kept], 0.0)
    return (error * hidden).sum(1) / hidden.sum(1)
