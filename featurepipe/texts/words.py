"""The words of a text, as files of word vectors have them."""

from __future__ import annotations

import re

RULES = 1  # version of what `words` takes for a word, part of the specs that depend on it
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Words, and punctuation marks one by one, in their order.

    Examples
    --------
    >>> words("Don't stop, it's 1999!")
    ["Don't", 'stop', ',', "it's", '1999', '!']
    """
    return WORD.findall(text)
