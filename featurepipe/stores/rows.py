"""The rows of a store's manifest: samples, the digests of their files, and when those were taken."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

import numpy as np

from featurepipe.manifests import Sample, Samples
from featurepipe.shards import digest_array

BLOCK = 4096  # rows that are turned into Python objects at a time


class Row(NamedTuple):
    """One manifest row of a store: a sample and the sha256 of its file ('' where the file could not be read)."""

    sample: Sample
    digest: str


class Stamp(NamedTuple):
    """Size and modification time (nanoseconds) by which an unchanged file is known."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows in columns, some fifty bytes each beside their samples; a `Row` is made when it is asked for.

    Attributes
    ----------
    samples : sequence of Sample
    digests : ndarray of uint8, shape (n, 32)
        Zeros where the file could not be read.
    readable : ndarray of bool, shape (n,)
    sizes, mtimes : ndarray of int64, shape (n,)
        Stamp of each file; a size of -1 where there is none that could be trusted.
    """

    samples: Sequence[Sample]
    digests: np.ndarray
    readable: np.ndarray
    sizes: np.ndarray
    mtimes: np.ndarray

    @classmethod
    def gather(cls, lines: Iterable[tuple[Sample, str, Stamp | None]]) -> Rows:
        """From sample, hexadecimal digest and stamp of each row; a ValueError if a digest is none."""
        samples, digests, readable, sizes, mtimes = Samples(), bytearray(), bytearray(), array("q"), array("q")
        for sample, digest, stamp in lines:
            content = bytes.fromhex(digest) or bytes(32)
            if len(content) != 32:
                raise ValueError(f"{digest!r} is no sha256")
            samples.append(sample)
            digests += content
            readable.append(bool(digest))
            sizes.append(stamp.size if stamp else -1)
            mtimes.append(stamp.mtime_ns if stamp else 0)
        return cls(
            samples,
            np.frombuffer(digests, np.uint8).reshape(-1, 32),
            np.frombuffer(readable, bool),
            np.frombuffer(sizes, np.int64),
            np.frombuffer(mtimes, np.int64),
        )

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rows:
        """The rows themselves, or in columns if they are not yet."""
        return rows if isinstance(rows, Rows) else cls.gather((sample, digest, None) for sample, digest in rows)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Row(self.samples[index], self.digests[index].tobytes().hex() if self.readable[index] else "")

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Each row's cells as texts: id, path, label, split, digest, size, mtime_ns; '' for none."""
        samples = iter(self.samples)
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            digests, readable = self.digests[part].tobytes().hex(), self.readable[part].tolist()
            stamps = zip(self.sizes[part].tolist(), self.mtimes[part].tolist(), strict=True)
            for i, (size, mtime) in enumerate(stamps):
                id_, path, label, split = next(samples)
                digest = digests[64 * i : 64 * i + 64] if readable[i] else ""
                stamp = (str(size), str(mtime)) if size >= 0 else ("", "")
                yield id_, path, label or "", split or "", digest, *stamp

    def __iter__(self) -> Iterator[Row]:
        for sample, digest, known in zip(self.samples, self.digests, self.readable, strict=True):
            yield Row(sample, digest.tobytes().hex() if known else "")

    def without_stamps(self, digests: Iterable[str]) -> Rows:
        """The same, but files of these digests are read again the next time."""
        doubtful = np.isin(self.keys, keys(digest_array(digests)))
        return replace(self, sizes=np.where(doubtful, -1, self.sizes))

    @property
    def keys(self) -> np.ndarray:
        """The digests as one sortable value each, shape (n,); no copy."""
        return keys(self.digests)


def keys(digests: np.ndarray) -> np.ndarray:
    """Digests (n, 32) as one sortable value each, shape (n,)."""
    return np.ascontiguousarray(digests).view("S32")[:, 0]
