"""Samples, held in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import NamedTuple, overload


class Sample(NamedTuple):
    """One image: its key, where it is, and what is known about it.

    `place` says where the manifest's source has its bytes: for files, the path relative to the root, or absolute.
    `part` says which part of them it is, such as the box ``10,20,200,180``; None for the whole. Samples of one `group`
    (a patient, a video, a burst) are alike, and stay on one side of every split; so do the parts of one file.
    """

    id: str
    place: str
    label: str | None
    split: str | None
    group: str | None = None
    part: str | None = None


class Samples(Sequence[Sample]):
    """Samples in some fifty bytes each, made when they are asked for: a million of them are no burden.

    Parameters
    ----------
    samples : iterable of Sample
        In their order.

    Attributes
    ----------
    parts : Rare
        Their parts alone.

    Examples
    --------
    >>> samples = Samples([Sample("cats/1.jpg", "cats/1.jpg", "cats", None)])
    >>> samples[0].label, len(samples)
    ('cats', 1)
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._ids, self._places = Texts(), Texts()
        self._labels, self._splits, self._groups = _Repeated(), _Repeated(), _Repeated()
        self.parts = Rare()
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Add one at the end."""
        id_, place, label, split, group, part = sample
        self._ids.append(id_)
        self._places.append("" if place == id_ else place)  # as nearly everywhere; a place is never empty
        self._labels.append(label)
        self._splits.append(split)
        self._groups.append(group)
        self.parts.append(part)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Samples:
        """The samples themselves, or in columns if they are not yet."""
        return samples if isinstance(samples, Samples) else cls(samples)

    @property
    def ids(self) -> Sequence[str]:
        """Their ids alone."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        id_ = self._ids[index]
        known = self._labels[index], self._splits[index], self._groups[index], self.parts[index]
        return Sample(id_, self._places[index] or id_, *known)

    def __iter__(self) -> Iterator[Sample]:  # thrice as fast as one by one
        columns = self._ids, self._places, self._labels, self._splits, self._groups, self.parts
        for id_, place, label, split, group, part in zip(*columns, strict=True):
            yield Sample(id_, place or id_, label, split, group, part)


class Texts(Sequence[str]):
    """Texts end to end in one buffer."""

    def __init__(self) -> None:
        self._buffer, self._bounds = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        """Add one at the end."""
        self._buffer += text.encode("utf-8", "surrogatepass")  # file names may be any bytes
        self._bounds.append(len(self._buffer))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._buffer[self._bounds[index] : self._bounds[index + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in islice(self._bounds, 1, None):
            yield self._buffer[start:end].decode("utf-8", "surrogatepass")
            start = end


class Rare(Sequence[str | None]):
    """Texts of which there are none in most data; they need no room before the first one."""

    def __init__(self) -> None:
        self._texts, self._count = Texts(), 0

    def append(self, text: str | None) -> None:
        """Add one at the end, which is not empty, or None."""
        if text is not None:
            for _ in range(self._count - len(self._texts)):
                self._texts.append("")
            self._texts.append(text)
        self._count += 1

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return len(self._texts) > 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str | None: ...

    @overload
    def __getitem__(self, index: slice) -> list[str | None]: ...

    def __getitem__(self, index: int | slice) -> str | list[str | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(self._count)[index]
        return (self._texts[at] or None) if at < len(self._texts) else None

    def __iter__(self) -> Iterator[str | None]:
        return chain((text or None for text in self._texts), repeat(None, self._count - len(self._texts)))


class _Repeated:
    """Texts of which there are few different ones."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {}
        self._values: list[str | None] = []
        self._rows = array("i")

    def append(self, value: str | None) -> None:
        code = self._codes.setdefault(value, len(self._values))
        if code == len(self._values):
            self._values.append(value)
        self._rows.append(code)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str | None:
        return self._values[self._rows[index]]

    def __iter__(self) -> Iterator[str | None]:
        return map(self._values.__getitem__, self._rows)
