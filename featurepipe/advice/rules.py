"""Rules: from evidence to one of four options. Every threshold is here, with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurepipe.advice import tokens

OPTIONS = ("linear", "stage", "tune-last", "tune-all")  # cheapest first
TABLE = {
    ("small", "similar"): "linear",
    ("small", "different"): "stage",
    ("large", "similar"): "tune-last",
    ("large", "different"): "tune-all",
}

USUAL = {
    "linear": "probe the last layer",
    "stage": "probe an earlier layer",
    "tune-last": "tune the last blocks",
    "tune-all": "tune the whole network",
}

SAID = {
    "linear": "keep the linear probe on {layer}",
    "stage": "probe the earlier layer {layer}",
    "tune-last": "tune the last blocks",
    "tune-all": "tune the whole network, with small learning rates",
}

PROBED = ("linear", "stage")  # the options that train a probe only

# -- the cell -----------------------------------------------------------------------------------------------------
# VTAB's number of images (Zhai et al. 2019), on which that benchmark tunes the whole network.
SMALL = 1000
# With fewer images per class a fifth, held back to validate on, is a single one or none of each: nobody has measured
# what tuning gains there.
FEW = 5
# Half of the way from what comes without pretraining to no mistake; see `featurepipe.advice.measure`.
SIMILAR = 0.5


# -- what tuning gains --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Constants:
    """What tuning brings, as a share of the probe's mistakes; `benchmarks/advice.py` fits it to finished runs.

    The number of images (100 to 400) and the similarity were tried too, and said nothing of the share on data sets that
    they were not fitted to.

    Parameters
    ----------
    share : float
        Share of the mistakes that tuning everything removes.
    last : float
        Part of `share` that tuning the last blocks alone removes.
    spread : float
        Standard deviation of the share over data sets.
    """

    share: float
    last: float
    spread: float


FITTED = Constants(share=0.36, last=0.4, spread=0.22)
MOST = 0.9  # share of the mistakes; no run came to more
LIKELY = 1.28  # standard deviations: eight of ten lie within
LAST = "last-3"  # blocks: the last stage of a ResNet-50 or ConvNeXt, a quarter of a ViT

# -- the choice ---------------------------------------------------------------------------------------------------
# The cheapest option that is expected to lie within this of the best.
WORTH = 0.01


def decide(evidence: Mapping[str, Any], constants: Constants = FITTED) -> dict[str, Any]:
    """What to do, from evidence alone.

    Parameters
    ----------
    evidence : mapping
        `featurepipe.advice.count`'s and `featurepipe.advice.measure`'s together; and ``masked``, whether the backbone
        was pretrained by masking (`featurepipe.advice.is_masked`), ``tunable``, whether it can be tuned, and
        ``tokens``: see `featurepipe.advice.tokens.verdict`.
    constants : Constants

    Returns
    -------
    dict
        - ``option``: one of `OPTIONS`; ``tune``: depth for fine-tuning, None for a probe; ``layer``: to probe or to put
          the head on
        - ``more_labels``: whether twice the labels would gain more than tuning does
        - ``cell``: ``size, similarity``, and ``table``: the option that the table of CS231n has there
        - ``expected_gain``: option → ``low, mean, high``, fractions on new images against the linear probe; None for a
          stage where the evidence has no other layer
        - ``attentive``: whether to ``try`` a probe that reads tokens, ``use`` it, or ``keep`` the linear one; else None
        - ``reasons, warnings``: a sentence each

    Notes
    -----
    What tuning can gain is headroom: what the probe gets wrong on images that it has not seen. How much of it tuning
    takes was fitted to finished runs on other data: ``docs/tuning.md`` lists them. Low and high are meant to hold eight
    of ten such runs. An earlier layer is promised less than what was measured, as it is the best of several on few
    images, and is recommended where even the low end of that beats the other options. The gains say nothing about
    images from elsewhere, on which tuning may lose what it gains here (Kumar et al. 2022).

    Examples
    --------
    >>> layers = [{"layer": "penultimate", "top1": 0.8}]
    >>> evidence = {
    ...     **{"images": 5000, "classes": 10, "per_class": {"min": 500, "median": 500.0}, "masked": False},
    ...     **{"top1": 0.8, "train_top1": 0.9, "measured": 5000, "layer": "penultimate", "best_layer": "penultimate"},
    ...     **{"layers": layers, "knn": 0.7, "baselines": {"chance": 0.1, "pixels": 0.3}, "similarity": 0.57},
    ...     "labels": {"floor": 0.15, "per_doubling": 0.01, "standard_error": 0.002},
    ... }
    >>> found = decide(evidence, Constants(share=0.3, last=0.5, spread=0.2))
    >>> found["option"], found["tune"], round(found["expected_gain"]["tune-all"]["mean"], 3)
    ('tune-all', 'all', 0.06)
    """
    gains = _gains(evidence, constants)
    cell = _cell(evidence)
    held = {option: gain["mean"] for option, gain in gains.items() if gain is not None}
    if not evidence.get("tunable", True):
        held = {option: gain for option, gain in held.items() if not option.startswith("tune")}
    if _earlier_is_better(evidence):
        stage = gains["stage"]
        assert stage is not None  # there is an earlier layer
        held["stage"] = stage["low"]  # an earlier layer often only seems better, and tuning mends it, too
    else:
        held.pop("stage", None)
    best = max(held.values())
    option = next(one for one in OPTIONS if one in held and held[one] >= best - WORTH)
    more_labels = _labels_pay(evidence, gains)
    return {
        "option": option,
        "tune": {"tune-last": LAST, "tune-all": "all"}.get(option),
        "layer": evidence["best_layer"] if option == "stage" else evidence["layer"],
        "more_labels": more_labels,
        "cell": cell,
        "expected_gain": gains,
        "attentive": tokens.verdict(evidence, WORTH),
        "reasons": _reasons(evidence, gains, cell, option),
        "warnings": _warnings(evidence, option),
    }


def in_words(found: Mapping[str, Any]) -> str:
    """The advice of `decide`, in a line.

    Examples
    --------
    >>> in_words({"option": "linear", "layer": "penultimate", "more_labels": True})
    'keep the linear probe on penultimate; better still, label more images'
    """
    said = SAID[found["option"]].format(layer=found["layer"])
    if found.get("attentive") == tokens.USE and found["option"] in PROBED:
        said = "use the attentive probe on the tokens"
    return said + ("; better still, label more images" if found["more_labels"] else "")


def _similarity(evidence: Mapping[str, Any]) -> float:
    """What counts: neighbours say nothing of features pretrained by masking, which is as if they knew no class."""
    return 0.0 if evidence.get("masked") else evidence["similarity"]


def _gains(evidence: Mapping[str, Any], constants: Constants) -> dict[str, dict[str, float] | None]:
    error = 1 - evidence["top1"]
    per_class = evidence["per_class"]["median"]
    known = per_class >= FEW  # with fewer nobody has measured it, and nothing is promised
    share, spread = (constants.share, LIKELY * constants.spread) if known else (0.0, 0.0)
    shares = max(0.0, share - spread), share, min(MOST, share + spread)  # a network that is worse is not kept
    return {
        "linear": _range(0.0, 0.0, 0.0),
        "stage": _stage_gain(evidence),
        "tune-last": _range(*(constants.last * error * one for one in shares)),
        "tune-all": _range(*(error * one for one in shares)),
    }


def _range(low: float, mean: float, high: float) -> dict[str, float]:
    return {"low": low, "mean": mean, "high": high}


def _stage_gain(evidence: Mapping[str, Any]) -> dict[str, float] | None:
    """Of the chosen earlier layer, or else of the best one: what is left of its lead, and 95 % of noise.

    The lead of the best of several is too large on average. It is shrunk by the share of its square that is noise: the
    positive-part estimate of James and Stein 1961.
    """
    earlier = [row for row in evidence["layers"] if row["layer"] != evidence["layer"]]
    if not earlier:
        return None
    chosen = [row for row in earlier if row["layer"] == evidence["best_layer"]]
    top1, last = max(row["top1"] for row in chosen or earlier), evidence["top1"]
    lead, error = top1 - last, math.sqrt((top1 * (1 - top1) + last * (1 - last)) / evidence["measured"])
    if lead > 0:
        lead *= max(0.0, 1 - (error / lead) ** 2)
    return _range(lead - 1.96 * error, lead, lead + 1.96 * error)


def _earlier_is_better(evidence: Mapping[str, Any]) -> bool:
    """Whether a layer before the last is better than noise, and by as much as is worth a word."""
    gain = _stage_gain(evidence)
    return evidence["best_layer"] != evidence["layer"] and gain is not None and gain["mean"] >= WORTH


def _cell(evidence: Mapping[str, Any]) -> dict[str, str]:
    large = evidence["images"] >= SMALL and evidence["per_class"]["median"] >= FEW
    similar = _similarity(evidence) >= SIMILAR and not _earlier_is_better(evidence)
    size, similarity = "large" if large else "small", "similar" if similar else "different"
    return {"size": size, "similarity": similarity, "table": TABLE[size, similarity]}


def standard_error(evidence: Mapping[str, Any]) -> float:
    """The standard error of the probe's top-1; without a mistake, that of one mistake."""
    return tokens.error_of(evidence["top1"], evidence["measured"])


def _labels_pay(evidence: Mapping[str, Any], gains: Mapping[str, Any]) -> bool:
    """Whether twice the labels gain a point, beyond one standard error, and more than any depth of tuning."""
    labels = evidence["labels"]
    if labels is None:
        return False
    sure = labels["per_doubling"] - labels["standard_error"]
    return sure >= WORTH and labels["per_doubling"] > gains["tune-all"]["mean"]


# -- sentences ----------------------------------------------------------------------------------------------------


def _reasons(evidence: Mapping[str, Any], gains: Mapping[str, Any], cell: Mapping[str, str], option: str) -> list[str]:
    error = f"{_percent(1 - evidence['top1'])} ± {100 * standard_error(evidence):.1f}"
    return [
        _size_reason(evidence, cell),
        _similarity_reason(evidence, cell),
        f"The probe errs on {error} of new images; tuning the whole network should fix about "
        f"{_points(gains['tune-all']['mean'])} of that.",
        *tokens.reasons(evidence, WORTH),
        *_stage_reason(evidence, gains),
        *_labels_reason(evidence, gains),
        _choice_reason(option),
        *_table_reason(cell, option),
    ]


def _size_reason(evidence: Mapping[str, Any], cell: Mapping[str, str]) -> str:
    median = evidence["per_class"]["median"]
    limit = f"{FEW} per class" if median < FEW else f"{SMALL:,} images"
    side = "below" if cell["size"] == "small" else "at or above"
    return (
        f"{evidence['images']:,} training images of {evidence['classes']} classes, {median:g} per class, are a "
        f"{cell['size']} number: {side} {limit}."
    )


def _similarity_reason(evidence: Mapping[str, Any], cell: Mapping[str, str]) -> str:
    if evidence.get("masked"):
        return "Neighbours say nothing about a backbone pretrained by masking, so the data count as different."
    name = max(evidence["baselines"], key=evidence["baselines"].get)
    near = evidence["similarity"] >= SIMILAR
    said = (
        f"Nearest neighbours are right on {_percent(evidence['knn'])} and {name} on "
        f"{_percent(evidence['baselines'][name])}: your images are {'close to' if near else 'far from'} what the "
        f"network was trained on (similarity {evidence['similarity']:.2f})"
    )
    if set(evidence["baselines"]) == {"chance"}:
        said += "; this is optimistic, because raw pixels are missing from the comparison"
    if near and cell["similarity"] == "different":
        return f"{said}. But an earlier layer is better than the last, so the data count as different."
    return f"{said}."


def _stage_reason(evidence: Mapping[str, Any], gains: Mapping[str, Any]) -> list[str]:
    if gains["stage"] is None:
        return []
    if not _earlier_is_better(evidence):
        return [f"No earlier layer beats {evidence['layer']} by {_points(WORTH)} and by more than chance explains."]
    by = _points(gains["stage"]["mean"])
    return [f"A probe on {evidence['best_layer']} is expected to beat one on {evidence['layer']} by {by}."]


def _labels_reason(evidence: Mapping[str, Any], gains: Mapping[str, Any]) -> list[str]:
    labels = evidence["labels"]
    if labels is None:
        return []
    said = (
        f"Twice the labels would take {100 * labels['per_doubling']:.1f} ± {100 * labels['standard_error']:.1f} points "
        f"off the probe's error, and even unlimited labels would leave an error of about {_percent(labels['floor'])}"
    )
    if _labels_pay(evidence, gains):
        return [f"{said}: labels are worth more than tuning."]
    return [f"{said}."]


def _choice_reason(option: str) -> str:
    within = f"within {_points(WORTH)} of the best"
    if option == OPTIONS[-1]:
        return f"No cheaper option is expected to come {within}."
    return f"It is the cheapest option that is expected to come {within}."


def _table_reason(cell: Mapping[str, str], option: str) -> list[str]:
    if cell["table"] == option:
        return []
    rule = USUAL[cell["table"]]
    return [
        f"The usual rule for {cell['size']} and {cell['similarity']} data (CS231n) is to {rule}; the expected gains "
        "overrule it."
    ]


def _warnings(evidence: Mapping[str, Any], option: str) -> list[str]:
    found = []
    if not evidence.get("tunable", True):
        found.append(
            "featurepipe cannot tune this backbone, so the choice is between probes; the gains of tuning say what a "
            "backbone that can be tuned might bring."
        )
    found += tokens.warnings(evidence)
    if evidence["per_class"]["median"] < FEW:
        found.append(f"With fewer than {FEW} images per class, all figures here are rough. Label more before tuning.")
    if len(evidence["layers"]) == 1:
        found.append(
            "The store holds one layer, and an earlier one may be better. To find out, run extract --layers stages."
        )
    if option.startswith("tune"):
        found.append(
            "Expected gains are averages over other data sets. On images from elsewhere a tuned network may do worse "
            "than the probe (Kumar et al. 2022)."
        )
    return found


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f} points"
