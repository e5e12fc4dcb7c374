"""Word vectors as a family, ``word2vec:FILE``: files of word2vec, GloVe and fastText."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from featurepipe.backbones.encoders import Encoder
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import PENULTIMATE, make_spec
from featurepipe.backbones.word_vectors import POOLINGS, WordTransform, mean_of, read_vectors
from featurepipe.errors import BackboneError
from featurepipe.texts import TextTransform
from featurepipe.texts.words import RULES


class WordFiles(Maker):
    """The mean of the vectors of a text's words.

    With ``pooling="sif"`` frequent words count less. The common component, which Arora et al. then take out, is left
    in: it would be learned from texts, some of them test data, and a linear probe finds it among its own columns.
    """

    family = "word2vec"

    def knows(self, name: Any) -> bool:
        """None without the family in front: a file may be anything."""
        return False

    def create(self, name: Any, request: Request) -> Encoder:
        """See `Maker.create`; of arguments it takes ``limit``, the number of vectors to read."""
        request.allow(f"word2vec:{name}", "weights", "arguments", "pooling")
        limit, pooling = _limit(request.arguments), request.pooling or "mean"
        if pooling not in POOLINGS:
            raise BackboneError(f"words are pooled by {' or '.join(POOLINGS)}, not by {pooling!r}")
        path = Path(request.weights or name).resolve()
        known = read_vectors(path, limit)
        notes = [] if pooling == "mean" else ["note: sif takes the order of words in the file for that of frequency"]
        arguments = {"words": RULES} | ({} if limit is None else {"limit": limit})
        digest = known.digest()
        return Encoder(
            name=f"word2vec:{path.name}",
            spec=make_spec("word2vec:vectors", arguments, digest, TextTransform(), PENULTIMATE, pooling, "fp32"),
            source={"name": f"word2vec:{path}", "weights": str(path), "random_seed": None},
            width=known.vectors.shape[1],
            encode=partial(mean_of, known.vectors, known.weights(pooling)),
            transform=WordTransform(known),
            notes=tuple(notes),
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        limit = {key: value for key, value in spec["arguments"].items() if key == "limit"}
        found = {"weights": origin.weights, "arguments": limit, "pooling": spec["pooling"]}
        return {"name": f"word2vec:{origin.weights}", **found}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: the files are in their users' hands."""
        return []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """The file of vectors."""
        return [weights or Path(name)]


def _limit(arguments: Mapping[str, Any]) -> int | None:
    limit = arguments.get("limit")
    if {*arguments} - {"limit"} or not (limit is None or (isinstance(limit, int) and limit > 0)):
        raise BackboneError("word vectors take the argument limit alone, a number of vectors such as limit=200000")
    return limit
