"""Tokens: an embedding for each patch of an image, as a grid. They are one more output of a network's forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featurepipe.errors import BackboneError

if TYPE_CHECKING:
    import torch

TOKENS = "tokens"  # the key of a spec, and what stands for them among the layers of a forward pass
DTYPE = "float16"  # half the bytes of float32, and finer than bf16, in which networks compute
Grid: TypeAlias = "tuple[int, int]"


def grid_of(spec: Mapping[str, Any]) -> Grid | None:
    """Rows and columns of the tokens that a spec describes; None where it describes vectors.

    Examples
    --------
    >>> grid_of({"layer": "penultimate", "tokens": {"grid": [7, 7], "dtype": "float16"}})
    (7, 7)
    """
    if TOKENS not in spec:
        return None
    height, width = spec[TOKENS]["grid"]
    return height, width


def describe(grid: Grid) -> dict[str, Any]:
    """What a spec says of tokens, under the key `TOKENS`."""
    return {"grid": list(grid), "dtype": DTYPE}


def as_rows(spec: Mapping[str, Any], vectors: np.ndarray) -> np.ndarray:
    """What `embed` gives (B, width) as a store keeps it: vectors as they are, tokens as float16 (B, H, W, D)."""
    grid = grid_of(spec)
    if grid is None:
        return vectors
    shape = (len(vectors), *grid, vectors.shape[1] // math.prod(grid))  # there may be no rows
    return vectors.reshape(shape).astype(DTYPE, copy=False)


def feature_width(spec: Mapping[str, Any], width: int) -> int:
    """How many features a head takes, of what `embed` gives `width` numbers: those of a vector, or of each token."""
    grid = grid_of(spec)
    return width if grid is None else width // math.prod(grid)


def row_bytes(spec: Mapping[str, Any], width: int) -> int:
    """Bytes of what a store keeps of one sample, of which `embed` gives `width` numbers."""
    return width * (4 if grid_of(spec) is None else np.dtype(DTYPE).itemsize)


def wanted_grid(tokens: bool | int | Sequence[int], own: Grid, name: str) -> Grid:
    """The grid that is asked for: True is the network's own, a number a square.

    Raises
    ------
    BackboneError
        It is not one, or finer than the network's own.
    """
    if tokens is True:
        return own
    grid = (tokens, tokens) if isinstance(tokens, int) else tuple(tokens)
    if len(grid) != 2 or not all(isinstance(size, int) and size > 0 for size in grid):
        raise BackboneError(f"a grid of tokens is a whole number from 1, such as 7; got {tokens!r}")
    if grid[0] > own[0] or grid[1] > own[1]:
        most = f"{own[0]}×{own[1]}"
        raise BackboneError(f"{name} has a grid of {most} tokens, which cannot become {grid[0]}×{grid[1]}; give less")
    return grid


def own_grid(module: Any, size: Sequence[int], name: str) -> Grid:
    """The grid of a timm network's own, of inputs of a size (C, H, W); raises as `token_map`."""
    import torch

    device = next(module.parameters()).device
    with torch.inference_mode():
        last = module.forward_features(torch.zeros(1, *size, device=device))
    height, width = token_map(module, last, size[1:], name).shape[2:]
    return height, width


def token_map(module: Any, last: torch.Tensor | list[torch.Tensor], size: Sequence[int], name: str) -> torch.Tensor:
    """What a timm network's last layer gives, as a map (B, D, h, w) in float32.

    Parameters
    ----------
    module : torch.nn.Module
    last : Tensor, or list of Tensor
        What ``forward_features`` gives: a map (B, D, h, w), or (B, h, w, D) where the network says so, or tokens
        (B, N, D) after the final norm, of which those of class and registers are dropped.
    size : sequence of int
        Height and width of the input.
    name : str
        For messages.

    Raises
    ------
    BackboneError
        There is no grid.
    """
    if isinstance(last, list) or last.ndim not in (3, 4):
        raise BackboneError(f"{name} ends in no map of features and no grid of tokens; leave --tokens out")
    if last.ndim == 4:
        return last.float().permute(0, 3, 1, 2) if getattr(module, "output_fmt", "NCHW") == "NHWC" else last.float()
    patches = last[:, getattr(module, "num_prefix_tokens", 0) or 0 :].float()  # (B, N, D)
    height, width = _arrangement(module, patches.shape[1], size, name)
    return patches.transpose(1, 2).unflatten(2, (height, width))


def _arrangement(module: Any, count: int, size: Sequence[int], name: str) -> Grid:
    """Rows and columns of this many patches: the network's own, or in the proportions of the input."""
    own = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if own is not None and math.prod(own) == count:
        return tuple(own)
    height = round(math.sqrt(count * size[0] / size[1]))
    if count < 2 or height < 1 or count % height or round(height * size[1] / size[0]) != count // height:
        raise BackboneError(f"{name} ends in {count} tokens, which form no grid; leave --tokens out")
    return height, count // height


def flat_tokens(maps: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Tokens side by side, row by row of the grid: (B, D, h, w) → float32 (B, H·W·D) of values that float16 holds.

    A coarser grid than the map is its adaptive mean.
    """
    import torch.nn.functional as F

    if maps.shape[2:] != grid:
        maps = F.adaptive_avg_pool2d(maps, grid)
    return maps.permute(0, 2, 3, 1).flatten(1).half().float()
