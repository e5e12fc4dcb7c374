"""Splits and the names that people give them."""

from __future__ import annotations

import re

SPLITS = ("train", "val", "test")
SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
}
ALIKE = {*SPELLINGS, "trn", "tst", "eval", "evaluation", "holdout"}


def split_named(name: str) -> str | None:
    """The split that a folder or a cell names, in any case and with blanks around it; None if it names none.

    Examples
    --------
    >>> split_named("Training"), split_named(" dev"), split_named("train2017")
    ('train', 'val', None)
    """
    return SPELLINGS.get(name.strip().casefold())


def resembles_split(name: str) -> bool:
    """Whether a name has the word of a split in it, and may mean one.

    Examples
    --------
    >>> [resembles_split(name) for name in ("train2017", "seg_test", "val set", "Testset", "trainer")]
    [True, True, True, True, False]
    """
    words = re.findall(r"[^\W\d_]+", name.casefold())
    return any(word.removesuffix("set") in ALIKE for word in words)
