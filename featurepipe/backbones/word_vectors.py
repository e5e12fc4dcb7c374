"""Word vectors: files of word2vec, GloVe and fastText, and the mean of a text's words.

What is read are the text format of word2vec (a line with the number and width of the vectors, then a word and its
numbers on each), that of GloVe (the same without the first line), fastText's ``.vec`` (as word2vec's) and word2vec's
binary format; each also compressed by gzip. A file is told by its content, not by its name.
"""

from __future__ import annotations

import gzip
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from featurepipe.backbones.formats import Unfit
from featurepipe.digests import sha256_arrays
from featurepipe.errors import TextError, WeightsUnavailable
from featurepipe.texts import TextTransform, held, words

GZIP = b"\x1f\x8b"
WIDEST = 2**14  # numbers of a vector: of more no file is one of word vectors
LINE = 2**20  # bytes
PIECE = 2**20
RARE = 1e-3  # of SIF: a word of that share of all text counts half
POOLINGS = ("mean", "sif")


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Vectors of words, the most frequent word first, as such files have them.

    Attributes
    ----------
    places : dict
        Word → its row.
    vectors : ndarray of float32, shape (n, width)
    """

    places: dict[str, int]
    vectors: np.ndarray

    def rows(self, text: str) -> list[int]:
        """The rows of a text's words; a word that is not known is looked for in lower case, too."""
        found = (self.places.get(word, self.places.get(word.lower())) for word in words(text))
        return [row for row in found if row is not None]

    def digest(self) -> str:
        """sha256 of all words and numbers, whichever format they came from."""
        text = "\n".join(self.places).encode("utf-8", "surrogatepass")
        return sha256_arrays({"words": np.frombuffer(text, np.uint8), "vectors": self.vectors})

    def weights(self, pooling: str) -> np.ndarray:
        """How much each word counts in a text, float32 (n,).

        ``mean``: all the same. ``sif``: a / (a + p) of Arora et al. 2017, with a = 0.001. Files have no frequencies p
        of words, but an order: so p is what Zipf's law says of a word's rank.
        """
        count = len(self.vectors)
        if pooling == "mean":
            return np.ones(count, np.float32)
        shares = 1 / np.arange(1, count + 1)
        return (RARE / (RARE + shares / shares.sum())).astype(np.float32)


@dataclass(frozen=True)
class WordTransform(TextTransform):
    """Bytes → the rows of a text's words: texts of which no word has a vector are rejected by name.

    Attributes
    ----------
    known : WordVectors
    """

    known: WordVectors = field(repr=False, compare=False)

    def decode(self, data: bytes, part: str | None = None, /) -> np.ndarray:
        """The rows, in an array without axes; TextError also where there are none."""
        rows = self.known.rows(self.read(data, part))
        if not rows:
            raise TextError("none of its words has a vector; is it in another language than the word vectors?")
        return held(rows)

    def trial(self, count: int, /) -> np.ndarray:
        """Rows of texts to try it on, always the same (count,)."""
        found = np.empty(count, object)
        found[:] = [self.known.rows(text) or [0] for text in super().trial(count)]
        return found


def mean_of(vectors: np.ndarray, weights: np.ndarray, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """The weighted mean of those rows of vectors (n, width) that each text has, float32 (texts, width)."""
    found = np.empty((len(texts), vectors.shape[1]), np.float32)
    for vector, rows in zip(found, texts, strict=True):
        shares = weights[rows] / weights[rows].sum()
        vector[:] = shares @ vectors[rows]
    return found


def read_vectors(path: Path, limit: int | None = None) -> WordVectors:
    """Read a file of word vectors, or its first `limit` ones.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        It is none, or it is damaged; the message names the line.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"word vectors {path} do not exist; give the place of the file")
    places, numbers, width = dict[str, int](), bytearray(), 0
    try:
        with _opened(path) as file:
            for word, vector in _vectors(file, path):
                width = len(vector) // 4
                if word not in places:  # as gensim has it: of a word that is there twice, the first counts
                    places[word] = len(places)
                    numbers += vector
                if len(places) == limit:
                    break
    except (OSError, EOFError) as error:
        raise Unfit(f"{path} cannot be read as word vectors: {error}") from error
    vectors = np.frombuffer(numbers, np.float32).reshape(-1, max(1, width))
    if not len(vectors) or not np.isfinite(vectors).all():
        raise Unfit(f"{path} holds {'values that are not finite' if len(vectors) else 'no word vectors'}")
    return WordVectors(places, vectors)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        if not file.peek(2).startswith(GZIP):
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast(BinaryIO, unpacked)


def _vectors(file: BinaryIO, path: Path) -> Iterator[tuple[str, bytes]]:
    """Each word with its float32 numbers."""
    first = file.readline(LINE)
    sizes = first.split()
    if len(sizes) == 2 and all(size.isdigit() for size in sizes):
        count, width = map(int, sizes)
        if not 1 <= width <= WIDEST:
            raise Unfit(f"{path} says that its vectors have {width} numbers, which no word vectors have")
        head = file.readline(LINE)
        try:
            _parsed(head, width)
        except ValueError:
            yield from _binary(file, head, count, width, path)
            return
        yield from _lines(file, [head], width, path, 2)
        return
    width = len(sizes) - 1
    if not 1 <= width <= WIDEST:
        raise Unfit(f"{path} is not a file of word vectors; word2vec, GloVe and fastText .vec files are read")
    yield from _lines(file, [first], width, path, 1)


def _lines(file: BinaryIO, head: list[bytes], width: int, path: Path, number: int) -> Iterator[tuple[str, bytes]]:
    while line := head.pop() if head else file.readline(LINE):
        try:
            yield _parsed(line, width)
        except ValueError as error:
            raise Unfit(
                f"{path}: line {number} is not a word and {width} numbers; word2vec, GloVe and fastText .vec files are "
                "read"
            ) from error
        number += 1


def _parsed(line: bytes, width: int) -> tuple[str, bytes]:
    """A word, which may have blanks in it, and its numbers; ValueError where it is none."""
    word, *numbers = line.rstrip(b" \r\n").rsplit(b" ", width)
    if len(numbers) != width:
        raise ValueError
    return word.decode("utf-8", "replace"), array("f", map(float, numbers)).tobytes()


def _binary(file: BinaryIO, held_: bytes, count: int, width: int, path: Path) -> Iterator[tuple[str, bytes]]:
    at, size = 0, 4 * width
    for number in range(1, count + 1):
        while (blank := held_.find(b" ", at)) < 0 or len(held_) < blank + 1 + size:
            piece = file.read(PIECE)
            if not piece or (blank < 0 and len(held_) - at > LINE):
                raise Unfit(f"{path} ends or breaks in vector {number} of {count:,}; copy it again")
            held_, at = held_[at:] + piece, 0
        word = held_[at:blank].lstrip(b"\n").decode("utf-8", "replace")
        at = blank + 1 + size
        yield word, held_[blank + 1 : at]
