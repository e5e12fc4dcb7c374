"""The seam of sources that say by themselves what they hold: an archive, say, or a data set of another library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from featurepipe.sources.source import Source


class Item(NamedTuple):
    """One content of a container.

    Parameters
    ----------
    place : str
        What the container's `read` takes.
    name : str
        What it is called inside, such as ``cats/1.jpg``: its folders and its suffix may say what it is.
    label, split, group : str or None
        What the container says of it.
    """

    place: str
    name: str
    label: str | None = None
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Columns:
    """What users call the columns, or keys, of what they have; None where they have not said it."""

    path: str | None = None
    label: str | None = None
    group: str | None = None


@dataclass
class Listing:
    """What a container holds, item by item; the other attributes are true when the last one has been given.

    Attributes
    ----------
    items : iterator of Item
        In any order.
    is_tree : bool
        Whether folders in the items' names say labels and splits, as in a folder of files. Names without a suffix of
        a medium are then left out.
    medium : str or None
        What the items are, where that does not follow from the suffixes of their names.
    remarks : list of str
        What users should know.
    columns : list of str
        Columns that are not used.
    numbered : callable, optional
        Gives the items again, called by their numbers, for the case that several have the same name.
    missing : Counter
        Text that means no label (``NA``) → how often.
    """

    items: Iterator[Item]
    is_tree: bool = False
    medium: str | None = None
    remarks: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    numbered: Callable[[], Iterator[Item]] | None = None
    missing: Counter[str] = field(default_factory=Counter)


class Container(Source):
    """A source that says what it holds; derive from it, and add the class to `CONTAINERS` and to `SOURCES`.

    Its `root` is a text from which ``SOURCES[kind]`` makes it again in any working directory.
    """

    def list_items(self, columns: Columns) -> Listing:
        """What it holds.

        Raises
        ------
        ManifestError
            While it is listed: it cannot be read, or lacks a column.
        """
        raise NotImplementedError


Opener = Callable[[Any], Container | None]  # of what users give; None where it is not for this kind of container
