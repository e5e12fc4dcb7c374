"""How an option is described: its default, what a docstring says about it, and its flags in the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Flag:
    """A flag of the command line, in plain words; `featurepipe.cli.flags` makes a click option of it.

    Attributes
    ----------
    names : tuple of str
        As `click.option` takes them: flags, and where none of them is the keyword's name, that.
    help : str
    panel : str or None
        Heading in --help; None is among the first options.
    kind : {'text', 'integer', 'number', 'path'}
        What the value is; the flag of a field that is True or False takes none.
    choices : tuple of str
        The only texts there are.
    least, most : float, optional
        The range of a number.
    above, below : bool
        Whether `least`, or `most`, is itself outside of the range.
    count : int
        How many values the flag takes.
    many : bool
        Whether it may be given several times.
    metavar : str, optional
    parse : str, optional
        Which parser of `featurepipe.cli.flags` reads the value.
    shown : bool
        Whether the command line has the field's default, and says so. Without, it is None there.
    """

    names: tuple[str, ...]
    help: str
    panel: str | None = None
    kind: str = "text"
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False
    count: int = 1
    many: bool = False
    metavar: str | None = None
    parse: str | None = None
    shown: bool = False

    @property
    def keyword(self) -> str:
        """The keyword that the value is passed on by."""
        plain = [name for name in self.names if not name.startswith("-")]
        return plain[0] if plain else self.long.removeprefix("--").split("/")[0].replace("-", "_")

    @property
    def long(self) -> str:
        """The flag as it is written out in messages."""
        return next(name for name in self.names if name.startswith("--"))


def option(default: T, doc: str, *flags: Flag, shape: str | None = None) -> T:
    """A field of a class of options.

    Parameters
    ----------
    default : object
    doc : str
        What a docstring says about it.
    *flags : Flag
        Its flags, if the command line has any: several, where it depends on other options what the value is called.
    shape : str, optional
        Its type in a docstring; by default by its annotation.
    """
    made: Any = field(default=default, metadata={"doc": doc, "flags": flags, "shape": shape})
    return made


def flags_of(*classes: type) -> Iterator[tuple[Field[Any], Flag]]:
    """Every flag of classes of options, with its field, in their order."""
    for one in classes:
        for each in fields(one):
            for flag in each.metadata.get("flags", ()):
                yield each, flag
