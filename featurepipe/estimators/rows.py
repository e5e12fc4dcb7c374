"""How rows of X become samples: the seam that each medium plugs into, and what all of them share.

A row may be a file wherever a medium has files: its path, its bytes (also in `io.BytesIO`, or as Hugging Face's
``{"bytes": …, "path": …}``).
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from featurepipe import models
from featurepipe.errors import SampleError
from featurepipe.media import Transform, count_media, plural
from featurepipe.sources import Content, Files, InMemory
from featurepipe.stores import Pending

LONGEST_PATH = 4096  # bytes; longer ones are a file themselves
FILES = Files()
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
ONE = (str, bytes, bytearray, memoryview, PathLike)  # what is one row, rather than rows


@dataclass(frozen=True)
class Listing(ABC):
    """How rows of X become samples of one medium; `featurepipe.estimators.media.LISTINGS` has one for each.

    Attributes
    ----------
    transform : Transform
        The backbone's.
    sample_rate : float or None
        Samples per second of arrays of sound.
    medium : str
    error : type
        What is raised of one row.
    wanted : str
        What a row may be, in words.
    example : str
        A pattern of its files, for messages.
    rated : bool
        Whether its arrays have a `sample_rate`.
    """

    transform: Transform
    sample_rate: float | None = None
    medium: ClassVar[str]
    error: ClassVar[type[SampleError]]
    wanted: ClassVar[str]
    example: ClassVar[str]
    rated: ClassVar[bool] = False

    @abstractmethod
    def content(self, item: Any) -> Path | Content:
        """A row's file, or its content; SampleError where it is neither."""

    def of_numbers(self, X: np.ndarray) -> Sequence[Any]:
        """The rows of an array of numbers; ValueError where they cannot be samples."""
        raise ValueError(f"X is an array of {X.dtype} {X.shape}; give a list, each of it {self.wanted}")

    def of_tensor(self, X: Any) -> Sequence[Any]:
        """The rows of an array of another library, such as torch; ValueError says what to give instead."""
        raise ValueError(f"X is {described(X)}; give NumPy arrays: X.numpy()")

    def is_one(self, value: Any) -> bool:
        """Whether this is one row."""
        return isinstance(value, ONE) or is_open(value)

    def rows(self, X: Any) -> Sequence[Any]:
        """The rows of X as a sequence that is not empty; X itself where it is one.

        Raises
        ------
        ValueError
            X is something else; the message says what, and what to give instead.
        """
        several = plural(self.medium)
        if isinstance(X, str | PathLike) and os.path.isdir(X):
            raise ValueError(
                f"X is the folder {str(X)!r}; give the list of its {several}: "
                f"sorted(Path({str(X)!r}).rglob('{self.example}'))"
            )
        if self.is_one(X):
            raise ValueError(f"X is a list of {several}; wrap the single {type(X).__name__} in a list: [X]")
        if isinstance(X, np.ndarray):
            return self._of_array(X)
        if isinstance(X, Mapping):
            raise ValueError(
                f"X is a {type(X).__name__} of {some(list(X))}; give the list of its {several}: X[{self.first(X)}]"
            )
        if (columns := _columns(X)) is not None:
            return self.rows(_single_column(X, columns))
        if is_tensor(X):
            return self.of_tensor(X)
        if isinstance(X, Set):
            raise ValueError(f"X is a set, which has no order that labels could follow; give a list of {several}")
        for convert in ("to_pylist", "to_list", "tolist"):  # a column of pyarrow, polars or pandas
            if hasattr(X, convert):
                X = getattr(X, convert)()
                break
        if not hasattr(X, "__len__") or hasattr(X, "toarray"):  # a sparse matrix has no length either
            hint = "; it is read more than once, so give list(X)" if hasattr(X, "__next__") else ""
            raise ValueError(f"X is a list of {several}; got {type(X).__name__}{hint}")
        if not len(X):
            raise ValueError(f"X holds 0 samples; at least 1 {self.medium} is needed")
        return X if hasattr(X, "__getitem__") else list(X)

    def listed(self, X: Any) -> list[Pending]:
        """Each row of X with the digest of its content; files keep the digest of their bytes, so that stores agree.

        Raises
        ------
        SampleError
            The medium's: a row is not a sample, or cannot be read.
        """
        rows = self.rows(X)
        # a torch Dataset may go on beyond its length for ever
        items = rows if hasattr(rows, "__iter__") else (rows[i] for i in range(len(rows)))
        contents = dict[str, Content]()
        memory = InMemory(contents)  # grows as they are listed
        return [self._pending(item, index, memory, contents) for index, item in enumerate(items)]

    def named(self, index: int, item: Any) -> str:
        """What to call a row of X: its number, and its path where it has one."""
        is_file = isinstance(item, (str, PathLike)) or (isinstance(item, bytes) and is_path(item))
        return f"{self.medium} {index} ({os.fsdecode(item)})" if is_file else f"{self.medium} {index}"

    def refused(self, index: int, item: Pending, reason: str) -> SampleError:
        """The error of a row that has been listed, and could not be decoded."""
        place = None if isinstance(item.source, InMemory) else Path(item.place)
        other = count_media([] if place is None else [place.suffix.lower()]).keys() - {self.medium}
        hint = f"; its name is that of a {min(other)}: give medium={min(other)!r}" if other else "; leave it out of X"
        return self.error(f"{self.named(index, place)}: {reason}{hint}")

    def _pending(self, item: Any, index: int, memory: InMemory, contents: dict[str, Content]) -> Pending:
        """One row, which is kept in memory unless it is a file."""
        try:
            content = self.content(item)
            if isinstance(content, Path):
                FILES.stamp(str(content))  # which refuses what is no file
                return Pending(FILES.digest(str(content)), FILES, str(content))
            contents[str(index)] = content
            return Pending(memory.digest(str(index)), memory, str(index))
        except OSError as error:
            raise self.error(f"{self.named(index, item)} cannot be read: {error.strerror or error}") from error
        except SampleError as error:
            raise self.error(f"{self.named(index, item)}: {error}") from error

    def file_of(self, item: Any) -> Path | bytes | None:
        """The file that a row names, or is; None where it is neither."""
        item = opened(item)
        if is_open(item):
            item = self._read(item)
        if isinstance(item, (bytes, bytearray, memoryview)):
            item = bytes(item)
            if not is_path(item) and item.isascii() and item.decode().isprintable() and item:
                raise self.error(f"these bytes are not {self._one}, and no file is called {item[:80]!r}")
            return Path(os.fsdecode(item)) if is_path(item) else item
        if isinstance(item, (str, PathLike)):
            if isinstance(item, str) and URL.match(item):
                raise self.error("this is a URL; download the file and give its path, or the bytes")
            return Path(os.fsdecode(item))
        return None

    def refusal(self, item: Any) -> str:
        """Why something is no row, and what to do."""
        several, kind = plural(self.medium), type(item).__name__
        if is_missing(item):
            return f"it is missing ({item!r}); leave it out of X and y"
        if isinstance(item, Mapping):
            return (
                f"it is a dict of {some(list(item))}; give the {self.medium} alone: [d[{self.first(item)}] for d in X]"
            )
        if isinstance(item, (tuple, list)) and item and self.is_one(item[0]):
            return f"it is a {kind} of {self._one} and more; give the {several} alone: [d[0] for d in X]"
        if isinstance(item, (tuple, list)) and item and (is_tensor(item[0]) or isinstance(item[0], np.ndarray)):
            return f"it is a {kind} of an array and more; give the {several} alone: [d[0] for d in X]"
        return f"{self._one} is {self.wanted}; got {kind}"

    def first(self, item: Mapping[Any, Any]) -> str:
        """The first key of a mapping, as it is written."""
        return repr(next(iter(item), self.medium))

    @property
    def _one(self) -> str:
        return f"{'an' if self.medium[0] in 'aeiou' else 'a'} {self.medium}"

    def _of_array(self, X: np.ndarray) -> Sequence[Any]:
        """The rows of one array: texts, bytes and objects of one column, or numbers."""
        if X.ndim and not len(X):
            raise ValueError(f"X holds 0 samples; at least 1 {self.medium} is needed")
        if X.dtype.kind in "OUS":
            if X.ndim != 1 and X.shape[1:] != (1,):
                raise ValueError(f"X is an array of {X.dtype.name} of shape {X.shape}; give one column, of shape (n,)")
            return X.ravel().tolist()
        return self.of_numbers(X)

    def _read(self, file: Any) -> bytes:
        """All of an open file, which is left where it was."""
        if getattr(file, "closed", False):
            raise self.error("it is a file that has been closed; give its path")
        at = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(at)
        if not isinstance(data, bytes):
            raise self.error("it is a file opened as text; open it with mode 'rb'")
        return data


def keys_of_files(items: Sequence[Pending]) -> np.ndarray:
    """What a model file remembers of those samples that are files or their bytes, uint64."""
    return models.digest_keys([item.digest for item in items if not _is_decoded(item)])


def _is_decoded(item: Pending) -> bool:
    return isinstance(item.source, InMemory) and not isinstance(item.source.contents[item.place], bytes)


def sample_tags(tags: Any) -> Any:
    """Input is samples, or text that names their files; no 2-D array."""
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags


def opened(item: Any) -> Any:
    """A row out of what holds it: a scalar of pyarrow, or the dict that Hugging Face data sets make of a file."""
    if hasattr(item, "as_py"):
        item = item.as_py()
    if isinstance(item, Mapping) and item and item.keys() <= {"bytes", "path"}:
        return item.get("path") if item.get("bytes") is None else item["bytes"]
    return item


def is_tensor(value: Any) -> bool:
    """Whether this is an array of another library, such as torch; columns of tables have one dimension."""
    return hasattr(value, "__array__") and not isinstance(value, np.ndarray) and getattr(value, "ndim", 0) >= 2


def described(tensor: Any) -> str:
    """A tensor in words."""
    return (
        f"a {type(tensor).__module__.partition('.')[0]} {type(tensor).__name__} {tuple(tensor.shape)} of {tensor.dtype}"
    )


def is_open(value: Any) -> bool:
    """Whether this is an open file, or `io.BytesIO`."""
    return hasattr(value, "read") and hasattr(value, "seek")


def is_path(data: bytes) -> bool:
    """Whether bytes name a file, rather than being one."""
    return len(data) <= LONGEST_PATH and b"\0" not in data and os.path.exists(data)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas.NA."""
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, (float, np.floating)) and np.isnan(value))
    )


def some(names: Sequence[Any]) -> str:
    """A few names, and how many there are."""
    shown = ", ".join(map(str, names[:4])) or "nothing"
    return f"{shown}, … ({len(names)} in all)" if len(names) > 4 else shown


def _columns(X: Any) -> list[str] | None:
    """The columns of a table of pandas, polars, pyarrow or Hugging Face; None for anything else."""
    names = getattr(X, "column_names", None)
    if names is None and hasattr(X, "shape"):
        names = getattr(X, "columns", None)
    return None if names is None or callable(names) else [str(name) for name in names]


def _single_column(X: Any, columns: list[str]) -> Any:
    """The only column of a table."""
    if len(columns) != 1:
        example = f"X[{columns[0]!r}]" if columns else "X['path']"
        raise ValueError(f"X is a {type(X).__name__} with {some(columns)}; give one column, such as {example}")
    if hasattr(X, "iloc"):
        return X.iloc[:, 0]
    return X[columns[0]]
