"""What a user may ask of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import PROJECTIONS

REPORT = "Report"  # panel


@dataclass(frozen=True)
class PageOptions:
    """What a model's page shows of single samples."""

    pictures: Any = option(
        "10MB",
        "Room for small pictures of samples on the page, in bytes or as text such as ``10MB``; 0 for none.",
        Flag(
            ("--pictures",),
            "Room on the report for small pictures, sounds or texts of the samples, such as 2MB. 0 shows none.",
            REPORT,
            metavar="SIZE",
            shown=True,
        ),
        shape="int or str",
    )
    projection: str = option(
        "pca",
        "How the map of the embeddings is made: ``pca``, or ``tsne``, which is for at most 3,000 samples.",
        Flag(
            ("--map", "projection"),
            "How the report draws the map of the embeddings. tsne separates groups better, but is slow; it takes at "
            "most 3,000 samples.",
            REPORT,
            choices=PROJECTIONS,
            shown=True,
        ),
    )


@dataclass(frozen=True)
class ReportOptions(PageOptions):
    """The same, and where the samples are."""

    store: Any = option(
        None,
        "Store with the embeddings and the samples' places; by default the one next to the model file. Without it the "
        "page has figures only.",
        Flag(
            ("--store",),
            "Store that the model was made from. The report shows pictures and a map only if it can read it.  "
            "[default: the store next to the model file]",
            REPORT,
            kind="path",
        ),
        shape="path, optional",
    )
