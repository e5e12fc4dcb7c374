"""TF-IDF: the hand-crafted descriptor of texts, for a trained encoder to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from featurepipe.backbones.descriptors import Descriptor
from featurepipe.surroundings import guarded
from featurepipe.texts import TextTransform

TFIDF = "tfidf"


@dataclass(frozen=True)
class Tfidf(Descriptor):
    """How often each word occurs in a text, in 4,096 columns that words share by their hash, with either sign.

    The term frequency is 1 + log(count), and a text has length 1. Nothing is learned, so no text that is tested on has
    a part in it. The inverse document frequency is left to the probe: it divides each column by its deviation over the
    training texts, which is small where a word is rare. That is less than TF-IDF proper, which weighs words before it
    brings texts to one length.

    References
    ----------
    Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval"; Weinberger et al. 2009, "Feature
    hashing for large scale multitask learning".

    Examples
    --------
    >>> Tfidf().embed(np.array(["to be", "or not to be"], object)).shape
    (2, 4096)
    """

    name: str = TFIDF
    transform: TextTransform = field(default_factory=TextTransform)
    architecture: ClassVar[str] = TFIDF
    title: ClassVar[str] = "TF-IDF"
    parameters: ClassVar[Mapping[str, Any]] = {"columns": 4096, "sublinear": True, "signed": True}

    def __post_init__(self) -> None:
        import sklearn.feature_extraction.text  # noqa: F401  # before threads do so at once

    @property
    def width(self) -> int:
        """Length of one vector: columns."""
        return self.parameters["columns"]

    @guarded
    def embed(self, inputs: np.ndarray, /) -> np.ndarray:
        """Texts (B,) → (B, 4096) float32."""
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.preprocessing import normalize

        if not len(inputs):
            return np.empty((0, self.width), np.float32)
        hashing = HashingVectorizer(n_features=self.width, alternate_sign=True, norm=None, dtype=np.float32)
        counts = hashing.transform(inputs.tolist())
        counts.eliminate_zeros()  # words that have taken each other away
        counts.data = np.sign(counts.data) * (1 + np.log(np.abs(counts.data)))
        return normalize(counts).toarray()
