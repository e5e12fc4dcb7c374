"""The media that estimators take: a new one is a file here, and a line below."""

from __future__ import annotations

from featurepipe.estimators.images import Images
from featurepipe.estimators.rows import Listing
from featurepipe.estimators.sounds import Sounds
from featurepipe.estimators.texts import Texts
from featurepipe.estimators.videos import Videos
from featurepipe.media import Transform, plural

LISTINGS: dict[str, type[Listing]] = {kind.medium: kind for kind in (Images, Sounds, Texts, Videos)}


def listing_of(transform: Transform, sample_rate: float | None, name: str) -> Listing:
    """How rows become samples of a backbone of that name.

    Raises
    ------
    ValueError
        No estimator takes its medium, or a rate is given for what has none.
    """
    kind = LISTINGS.get(transform.medium)
    if kind is None:
        raise ValueError(
            f"{name} embeds {plural(transform.medium)}, which estimators do not take; use featurepipe.extract"
        )
    if sample_rate is not None and not kind.rated:
        raise ValueError(f"sample_rate is of sounds; {name} embeds {plural(transform.medium)}, so leave it out")
    return kind(transform, sample_rate)
