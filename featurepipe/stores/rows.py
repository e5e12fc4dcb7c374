"""The rows of a store's manifest: samples, the digests of their files, and when those were taken."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np

from featurepipe.digests import sha256_part
from featurepipe.manifests import Sample, Samples
from featurepipe.shards import digest_array
from featurepipe.sources import NO_STAMP, Stamp

BLOCK = 4096  # rows that are turned into Python objects at a time


class Row(NamedTuple):
    """One manifest row of a store: a sample and the key of its vector.

    `digest` is the sha256 of its file, or of a part of it (`featurepipe.digests.sha256_part`); '' where the file could
    not be read. `content` is the sha256 of the file itself; None where that is `digest`.
    """

    sample: Sample
    digest: str
    content: str | None = None


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows in columns, 65 bytes each, without their samples; a `Row` is made when it is asked for.

    Attributes
    ----------
    samples : Samples
    contents : ndarray of uint8, shape (n, 32)
        The sha256 of each file; zeros where it could not be read.
    readable : ndarray of bool, shape (n,)
    stamps : ndarray of int64, shape (n, 4)
        `Stamp` of each file; a size of -1 where there is none that could be trusted.
    """

    samples: Samples
    contents: np.ndarray
    readable: np.ndarray
    stamps: np.ndarray

    @classmethod
    def gather(cls, lines: Iterable[tuple[Sample, str, Stamp | None]]) -> Rows:
        """From each row's sample, and its file's hexadecimal digest and stamp; a ValueError if one is not a digest."""
        samples, contents, readable, stamps = Samples(), bytearray(), bytearray(), array("q")
        for sample, digest, stamp in lines:
            content = bytes.fromhex(digest) or bytes(32)
            if len(content) != 32:
                raise ValueError(f"{digest!r} is not a sha256")
            samples.append(sample)
            contents += content
            readable.append(bool(digest))
            stamps.extend(stamp or NO_STAMP)
        return cls(
            samples,
            np.frombuffer(contents, np.uint8).reshape(-1, 32),
            np.frombuffer(readable, bool),
            np.frombuffer(stamps, np.int64).reshape(-1, len(NO_STAMP)),
        )

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rows:
        """The rows themselves, or in columns if they are not yet."""
        if isinstance(rows, Rows):
            return rows
        return cls.gather((row.sample, row.digest if row.content is None else row.content, None) for row in rows)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._row(self.samples[index], self.digests[index], self.contents[index], self.readable[index])

    @staticmethod
    def _row(sample: Sample, digest: np.ndarray, content: np.ndarray, readable: bool) -> Row:
        if not readable:
            return Row(sample, "")
        return Row(sample, digest.tobytes().hex(), None if sample.part is None else content.tobytes().hex())

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Each row's cells as texts: id, path, label, split, digest, stamp, part and group; '' for none."""
        samples = iter(self.samples)
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            contents, readable = self.contents[part].tobytes().hex(), self.readable[part].tolist()
            for i, stamp in enumerate(self.stamps[part].tolist()):
                id_, place, label, split, group, of_file = next(samples)
                content = contents[64 * i : 64 * i + 64] if readable[i] else ""
                cells = map(str, stamp) if stamp[0] >= 0 else ("",) * len(stamp)
                yield id_, place, label or "", split or "", content, *cells, of_file or "", group or ""

    def __iter__(self) -> Iterator[Row]:
        yield from map(self._row, self.samples, self.digests, self.contents, self.readable)

    def without_stamps(self, digests: Iterable[str]) -> Rows:
        """The same, but files of these digests are read again the next time."""
        doubtful = np.isin(self.keys, keys(digest_array(digests)))
        return replace(self, stamps=np.where(doubtful[:, None], NO_STAMP, self.stamps))

    @cached_property
    def digests(self) -> np.ndarray:
        """The keys of the rows' vectors, uint8 (n, 32): the contents, except where a sample is a part of one."""
        if not self.samples.parts.any:
            return self.contents
        made = self.contents.copy()
        for number, part in enumerate(self.samples.parts):
            if part is not None and self.readable[number]:
                made[number] = np.frombuffer(bytes.fromhex(sha256_part(made[number].tobytes(), part)), np.uint8)
        return made

    def digests_at(self, numbers: np.ndarray) -> np.ndarray:
        """As `digests`, of these rows alone, uint8 (k, 32); nothing of it is remembered."""
        made = self.contents[numbers]
        if self.samples.parts.any:
            for at, number in enumerate(numbers.tolist()):
                part = self.samples.parts[number]
                if part is not None and self.readable[number]:
                    made[at] = np.frombuffer(bytes.fromhex(sha256_part(made[at].tobytes(), part)), np.uint8)
        return made

    @property
    def keys(self) -> np.ndarray:
        """The digests as one sortable value each, shape (n,); no copy."""
        return keys(self.digests)


def keys(digests: np.ndarray) -> np.ndarray:
    """Digests (n, 32) as one sortable value each, shape (n,)."""
    return np.ascontiguousarray(digests).view("S32")[:, 0]


def are_among(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Which keys are among sorted ones; bool, as `values`."""
    if not len(held):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(held, values), len(held) - 1)
    found: np.ndarray = held[at] == values
    return found
