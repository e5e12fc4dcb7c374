"""Texts: bytes → a text, as encoders take it.

A text is UTF-8, with or without a byte-order mark. What is empty, too long or of another encoding is refused.
"""

from featurepipe.texts.transforms import TextTransform, held
from featurepipe.texts.words import words

__all__ = ["TextTransform", "held", "words"]
