"""Which epoch is kept where training ends early, and whether tuning pays: by validation data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurepipe.finetuning.depths import ALL, HEAD

# What tuning everything has brought on nine sets of development data, as a share of the probe's mistakes, and give or
# take how much; see docs/tuning.md. Where the probe makes next to none, tuning may still spoil two in a hundred.
SHARE, SPREAD, LEAST_SPREAD = 0.3, 0.25, 0.02
PART = 0.5  # of that, what the last blocks alone brought
LEAST = 0.01  # for less, nobody should carry a network of their own around
DOUBT = 0.1  # of a network that is no worse, how often it may lose by as much and be refused


def better(curve: Sequence[Mapping[str, Any]], best: int) -> bool:
    """Whether the last epoch of a curve is to be kept instead of epoch `best`.

    It has to be within one standard error of the best top-1 so far; and of a lower log-loss, unless the one that was
    kept is not within it any more. The standard error is that with two right and two wrong images more (Agresti and
    Coull 1998), so that a single image does not decide near 100 %.
    """
    n, top = curve[-1]["n"], max(row["top1"] for row in curve)
    likely = (n * top + 2) / (n + 4)
    enough = top - math.sqrt(likely * (1 - likely) / n)
    last, kept = curve[-1], curve[best]
    return last["top1"] >= enough and (kept["top1"] < enough or last["log_loss"] < kept["log_loss"])


def pays(probe: np.ndarray, network: np.ndarray, share: float = SHARE) -> bool:
    """Whether a tuned network is kept instead of the probe: it is expected to be better by a point on new images, and
    the held-back images do not speak against it.

    Few held-back images say little: of fifty, a network that is five points better loses one time in ten. So their
    verdict is weighed with what tuning has brought on other data: see `expected_gain`. A network that loses so clearly
    that one which is no worse would do so one time in ten at most (a sign test) is refused whatever is expected.

    Parameters
    ----------
    probe, network : ndarray of bool, shape (n,)
        Whether each is right, image by image; neither has learned from these images.
    share : float
        `expected_share` of what was tuned.

    Examples
    --------
    >>> probe = np.arange(50) < 40  # right on 80 %
    >>> pays(probe, np.arange(50) < 41), pays(probe, np.arange(50) < 36)
    (True, False)
    """
    return not is_behind(probe, network) and expected_gain(probe, network, share) > LEAST


def is_behind(probe: np.ndarray, network: np.ndarray) -> bool:
    """Whether the network loses as clearly as one that is no worse would one time in ten at most (a sign test)."""
    from scipy.stats import binom

    ahead, behind = duel(probe, network)
    return bool(binom.cdf(ahead, ahead + behind, 0.5) <= DOUBT)


def expected_share(tune: str) -> float:
    """Of the probe's mistakes, what tuning so deep is expected to remove: nothing of the head alone, half of a part.

    Examples
    --------
    >>> expected_share("head"), expected_share("last-3"), expected_share("all")
    (0.0, 0.15, 0.3)
    """
    return {HEAD: 0.0, ALL: SHARE}.get(tune, PART * SHARE)


def expected_gain(probe: np.ndarray, network: np.ndarray, share: float = SHARE) -> float:
    """By how much a tuned network is expected to be better than the probe on new images, a fraction.

    The mean of two normal distributions, each weighed by its precision: what tuning has brought on other data (a share
    of the probe's mistakes removed, give or take `SPREAD` where it is `SHARE`), and the network's lead on the held-back
    images. With many of these only their own verdict counts.
    """
    n, (ahead, behind) = len(probe), duel(probe, network)
    seen_wrong = (~probe).mean()
    likely_wrong = ((~probe).sum() + 1) / (n + 2)  # Laplace's rule: none of few is not none
    before = share * seen_wrong  # where the probe has made no mistake, there is none to promise anything of
    sure = max(SPREAD * share / SHARE * likely_wrong, LEAST_SPREAD) ** -2
    seen, precise = (ahead - behind) / n, n**2 / (ahead + behind + 1)  # the latter as of one more that differs
    return float((before * sure + seen * precise) / (sure + precise))


def duel(probe: np.ndarray, network: np.ndarray) -> tuple[int, int]:
    """On how many images the network alone is right, and on how many the probe alone."""
    return int((network & ~probe).sum()), int((probe & ~network).sum())
