"""What a card says of a probe on several backbones: each alone, and whether all are better than the best of them."""

from __future__ import annotations

from dataclasses import dataclass

from featurepipe.cards.parts import Count, Number, Part, Share, Text


@dataclass(frozen=True, kw_only=True, eq=False)
class Block(Part):
    """The same probe on one of the backbones alone, on the same rows; `selection_top1` is null where nothing chose."""

    name: Text
    layer: Text
    fingerprint: Text
    width: Count
    chosen: Number | None = None
    selection_top1: Share | None = None
    top1: Share
    interval: list[Share]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockTest(Part):
    """The joint probe against the best backbone alone, which selection data chose; paired, on the reported rows.

    `wins` and `losses` are images on which only the joint probe, or only the other one, is right.
    """

    best: Text
    difference: Number
    wins: Count
    losses: Count
    p: Share
    test: Text


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks(Part):
    """Each backbone alone, and the test; `test` is null where there was nothing to choose the best one on."""

    alone: list[Block]
    test: BlockTest | None = None
