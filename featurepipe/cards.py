"""Cards: what a model file says of itself, and the shape that its readers may rely on.

Whoever draws, prints or continues a model reads values out of nested JSON. A card that comes from a file is therefore
compared with `CARD` once, where the file is read. What earlier versions did not write may be missing.
"""

from __future__ import annotations

from typing import Any

from featurepipe.jsons import ANYTHING, COUNT, FLAG, NUMBER, SHARE, TEXT, Each, Type, check

_SPLITS = ("train", "val", "test")
SPLIT = Type("a split", lambda value: value in _SPLITS)
START = Type("probe, random head or scratch", lambda value: value in ("probe", "random head", "scratch"))
DEPTH = Type("a depth", lambda value: isinstance(value, str) and _is_depth(value))
_LOSS, _OF_CLASS = (NUMBER, None), (SHARE, None)
STEP = {
    **dict.fromkeys(("C?", "alpha?", "shrinkage?", "n_neighbors?"), (NUMBER, None)),
    "top1?": (SHARE, None),
    "log_loss?": _LOSS,
    "converged?": FLAG,
}
CLASS = {
    "support": COUNT,
    **dict.fromkeys(("precision", "recall", "f1"), _OF_CLASS),
    "average_precision?": _OF_CLASS,
}
WHOLE = {"n": COUNT, "top1?": SHARE, "map?": SHARE}
FIGURES = {
    "n?": COUNT,
    **dict.fromkeys(
        (f"{name}?" for name in ("top1", "balanced_accuracy", "map", "micro_f1", "macro_f1", "subset_accuracy")),
        (SHARE, None),
    ),
    **dict.fromkeys(("log_loss?", "ece?", "ece_uncalibrated?", "hamming?"), _LOSS),
    "classes?": [TEXT],
    "per_class?": Each(CLASS),
    "confusion?": ([[COUNT]], None),
    "with_copies?": WHOLE,
    "groups?": COUNT,
    "interval?": [SHARE],
}
DRAWS = {"mean": SHARE, "top1": [SHARE]}
SHOTS = {"shots": COUNT, "repeats": COUNT, **DRAWS, "semi?": Each(DRAWS), "baselines?": Each((SHARE, None))}
EPOCH = {
    "epoch": COUNT,
    "top1": (SHARE, None),
    **dict.fromkeys(("train_loss", "log_loss", "lr", "seconds"), (NUMBER, None)),
}
COURSE = {"curve": [EPOCH], "best_epoch": COUNT}
SIDE = {"kind?": TEXT, "top1": SHARE, "log_loss": _LOSS}
TUNING = {
    "promoted": FLAG,
    "start": START,
    "tune": DEPTH,
    "tuned_parameters": COUNT,
    "parameters": COUNT,
    "stopped": TEXT,
    **COURSE,
    "C?": NUMBER,
    "cached_bottom?": FLAG,
    "seconds?": NUMBER,
    "recipe?": Each(ANYTHING),
    "validation?": {
        "on": TEXT,
        "n": COUNT,
        "probe?": (SHARE, None),
        "probe_log_loss?": _LOSS,
        "expected_gain?": (NUMBER, None),
        **dict.fromkeys(("compared?", "network_alone?", "probe_alone?"), (COUNT, None)),
    },
    "probe?": (SIDE, None),
    "network?": ({**SIDE, "n": COUNT}, None),
    "refit?": ({"images": COUNT, "stopped": TEXT}, None),
    "scratch?": ({**COURSE, "top1": SHARE, "seconds": NUMBER}, None),
    "advice?": (
        {
            "option": TEXT,
            "tune": (TEXT, None),
            "layer": (TEXT, None),
            "expected_gain": Each((dict.fromkeys(("low", "mean", "high"), NUMBER), None)),
            "reasons": [TEXT],
        },
        None,
    ),
}
CARD = {
    "selection": {
        "on": TEXT,
        "chosen": (NUMBER, Each(NUMBER), None),
        "path": [STEP],
        **dict.fromkeys(("temperature?", "ece?", "ece_uncalibrated?"), (NUMBER, None)),
    },
    "data?": {"root": TEXT, "samples": COUNT, "classes": COUNT, "task?": TEXT, "labels?": TEXT},
    "splits?": {"train": COUNT, "val": COUNT, "test": COUNT},
    "split_source?": TEXT,
    "evaluated_on?": SPLIT,
    **dict.fromkeys(("train?", "val?", "test?"), (FIGURES, None)),
    "baselines?": Each((SHARE, None)),
    "majority_class?": (TEXT, None),
    "few_shot?": [SHOTS],
    "finetuning?": (TUNING, None),
    "protocol?": (
        {"name": TEXT, "version": (TEXT, NUMBER), "source": TEXT, "selection": TEXT, "metric?": TEXT},
        None,
    ),
    "seed?": COUNT,
    "class_weight?": (TEXT, None),
    "notes?": [TEXT],
    "versions?": Each(TEXT),
    "created?": TEXT,
}


def check_card(card: Any) -> None:
    """Raise ValueError, naming the first value that does not fit, unless this has the shape of a card."""
    check(card, CARD, "the card")


def _is_depth(text: str) -> bool:
    """Whether the name of a depth can be put into words."""
    return not text.startswith("last-") or (text.removeprefix("last-").isdecimal() and len(text) < len("last-") + 10)
