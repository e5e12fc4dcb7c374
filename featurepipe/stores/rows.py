"""The rows of a store's manifest: samples, the digests of their files, and when those were taken."""

from __future__ import annotations

import os
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
    """What an unchanged file is known by.

    Size and modification time alone would take a file for the one that had its name before, where both are of one size
    and their times have been normalised: files that were renamed, folders too, and links that now lead elsewhere.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Of the file itself, where its path leads over links."""
        inode = status.st_ino & (2**63 - 1)  # so that it fits a signed column, whatever the file system counts in
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


NO_STAMP = Stamp(-1, 0, 0, 0)  # of a file of which nothing could be trusted


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows in columns, 65 bytes each, without their samples; a `Row` is made when it is asked for.

    Attributes
    ----------
    samples : sequence of Sample
    digests : ndarray of uint8, shape (n, 32)
        Zeros where the file could not be read.
    readable : ndarray of bool, shape (n,)
    stamps : ndarray of int64, shape (n, 4)
        `Stamp` of each file; a size of -1 where there is none that could be trusted.
    """

    samples: Sequence[Sample]
    digests: np.ndarray
    readable: np.ndarray
    stamps: np.ndarray

    @classmethod
    def gather(cls, lines: Iterable[tuple[Sample, str, Stamp | None]]) -> Rows:
        """From sample, hexadecimal digest and stamp of each row; a ValueError if one is not a digest."""
        samples, digests, readable, stamps = Samples(), bytearray(), bytearray(), array("q")
        for sample, digest, stamp in lines:
            content = bytes.fromhex(digest) or bytes(32)
            if len(content) != 32:
                raise ValueError(f"{digest!r} is not a sha256")
            samples.append(sample)
            digests += content
            readable.append(bool(digest))
            stamps.extend(stamp or NO_STAMP)
        return cls(
            samples,
            np.frombuffer(digests, np.uint8).reshape(-1, 32),
            np.frombuffer(readable, bool),
            np.frombuffer(stamps, np.int64).reshape(-1, len(NO_STAMP)),
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
        """Each row's cells as texts: id, path, label, split, digest, stamp, part and group; '' for none."""
        samples = iter(self.samples)
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            digests, readable = self.digests[part].tobytes().hex(), self.readable[part].tolist()
            for i, stamp in enumerate(self.stamps[part].tolist()):
                id_, path, label, split, group = next(samples)
                digest = digests[64 * i : 64 * i + 64] if readable[i] else ""
                cells = map(str, stamp) if stamp[0] >= 0 else ("",) * len(stamp)
                yield id_, path, label or "", split or "", digest, *cells, "", group or ""

    def __iter__(self) -> Iterator[Row]:
        for sample, digest, known in zip(self.samples, self.digests, self.readable, strict=True):
            yield Row(sample, digest.tobytes().hex() if known else "")

    def without_stamps(self, digests: Iterable[str]) -> Rows:
        """The same, but files of these digests are read again the next time."""
        doubtful = np.isin(self.keys, keys(digest_array(digests)))
        return replace(self, stamps=np.where(doubtful[:, None], NO_STAMP, self.stamps))

    @property
    def keys(self) -> np.ndarray:
        """The digests as one sortable value each, shape (n,); no copy."""
        return keys(self.digests)


def keys(digests: np.ndarray) -> np.ndarray:
    """Digests (n, 32) as one sortable value each, shape (n,)."""
    return np.ascontiguousarray(digests).view("S32")[:, 0]
