"""What a user may ask of the answers of a model file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featurepipe.vocabulary.flags import Flag, option

ANSWERS = "Answers"  # panel
TARGET = 0.99


@dataclass(frozen=True)
class AnswerOptions:
    """Which answers a model gives, and what becomes of the files."""

    threshold: Any = option(
        None,
        "The least confidence of an answer, from 0 to 1. Below it the model abstains: the label is None (an empty cell "
        "in CSV), and what it would have said is under ``guess``. ``auto`` takes the lowest confidence at which the "
        "model was accurate enough on its validation data, as far as the model file says so.",
        Flag(
            ("--threshold",),
            "Least confidence of an answer, from 0 to 1. Below it the model abstains: the label stays empty, and a "
            "column guess has what it would have said. auto chooses the confidence on the model's validation data.",
            ANSWERS,
            metavar="auto|P",
            parse="threshold",
        ),
        shape="float or {'auto'}, optional",
    )
    target_accuracy: float | None = option(
        None,
        "Accuracy that ``threshold='auto'`` wants for the answers that are given; 0.99 by default.",
        Flag(
            ("--target-accuracy",),
            "Accuracy that --threshold auto wants for the answers that are given, such as 0.95.  [default: 0.99]",
            ANSWERS,
            kind="number",
            least=0,
            most=1,
            above=True,
        ),
    )
    copy_to: Any = option(
        None,
        "Folder into which the files are copied, each into the folder of its label, ``FOLDER/LABEL/NAME``; those on "
        "which the model abstains into ``FOLDER/_unsure``. Nothing is ever replaced or moved.",
        Flag(
            ("--copy-to",),
            "Folder to copy the files into, each into a folder named after its label. Files without an answer go to "
            "the folder _unsure. No file is moved, replaced or deleted.",
            ANSWERS,
            kind="path",
            metavar="FOLDER",
        ),
        shape="path, optional",
    )
