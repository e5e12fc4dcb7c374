"""What a user may ask of a table for programs that show embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import PROJECTIONS

PROGRAMS = ("atlas",)
ATLAS = "Atlas"  # panel


@dataclass(frozen=True)
class AtlasOptions:
    """For which program, and what is added to the samples."""

    for_: str | None = option(
        None,
        "``atlas`` writes one Parquet file with small pictures, a map, neighbours and labels, for Embedding Atlas and "
        "Spotlight.",
        Flag(
            ("--for", "for_"),
            "Write FILE.parquet for Embedding Atlas and Spotlight: small pictures, a map, neighbours and labels, but "
            "no embeddings.",
            ATLAS,
            choices=PROGRAMS,
        ),
        shape="{'atlas'}, optional",
    )
    model: Any = option(
        None,
        "With `for_`: a model file on the same backbone, whose predictions become columns.",
        Flag(
            ("--model",),
            "With --for: a model file or folder of results, whose predictions become columns.",
            ATLAS,
            kind="path",
        ),
        shape="path, optional",
    )
    projection: str | None = option(
        None,
        "With `for_`: how the map is made, ``pca`` (default) or ``tsne``, which is for at most 3,000 samples.",
        Flag(
            ("--map", "projection"),
            "With --for: how the map is made. tsne takes at most 3,000 samples.  [default: pca]",
            ATLAS,
            choices=PROJECTIONS,
        ),
    )
