"""The face of a result: a title, rows and columns; as text, as HTML and as a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from featurepipe.characters import shown
from featurepipe.errors import DependencyMissing
from featurepipe.reports import markup

ROWS = 20  # that are shown
WIDTH = 100  # columns of the lines around the table
LONG = 60  # characters of a cell
Row = Mapping[str, Any]
Column = Callable[[Row], str]


@dataclass(frozen=True)
class Face:
    """How a result looks.

    Attributes
    ----------
    title : str
        The answer in one line.
    rows : sequence of mapping
        What there is to tell in a table, as plain values: `to_frame` has all of it.
    columns : mapping
        Heading → what it shows of a row.
    notes : sequence of str
        Lines below the table.
    """

    title: str
    rows: Sequence[Row] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def cells(self) -> list[list[str]]:
        """What is shown of the first rows."""
        return [[column(row) for column in self.columns.values()] for row in self.rows[:ROWS]]

    @property
    def more(self) -> str:
        """What is said of rows that are not shown."""
        left = len(self.rows) - ROWS
        return f"… and {left:,} more rows; to_frame() has all of them" if left > 0 else ""


def text(face: Face, keys: Iterable[str]) -> str:
    """A face as lines of text, the keys of its dict last."""
    told = f"keys: {', '.join(map(str, keys))}"
    lines = [line for one in (face.title, *_table(face), face.more, *face.notes, told) if one for line in _lines(one)]
    return "\n".join(shown(line) for line in lines)


def _lines(said: str) -> list[str]:
    """A line as it is, where it belongs to the table, or in pieces that fit."""
    return [said] if said.startswith("  ") else wrap(said, WIDTH, subsequent_indent="  ")


def _table(face: Face) -> list[str]:
    rows = [list(face.columns), *face.cells]
    if len(rows) == 1 or not face.columns:
        return []
    rows = [[shown(_short(cell)) for cell in row] for row in rows]
    widths = [max(map(markup.columns, column)) for column in zip(*rows, strict=True)]
    numeric = [all(_is_figure(row[i]) for row in rows[1:]) for i in range(len(widths))]
    return ["  " + _line(row, widths, numeric) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = []
    for cell, width, right in zip(row, widths, numeric, strict=True):
        space = " " * (width - markup.columns(cell))
        cells.append(space + cell if right else cell + space)
    return "  ".join(cells).rstrip()


def _short(cell: str) -> str:
    return cell if len(cell) <= LONG else f"{cell[: LONG // 2]}…{cell[-LONG // 2 :]}"


def _is_figure(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+-–<"


def html(face: Face, keys: Iterable[str] = ()) -> str:
    """A face as an HTML fragment, the keys of its dict last; whatever strangers have named is escaped."""
    tag = markup.tag
    notes = [tag("p", note) for note in (face.more, *face.notes) if note]
    table = markup.table(list(face.columns), face.cells) if face.rows and face.columns else ""
    named = ", ".join(map(str, keys))
    told = tag("details", tag("summary", "keys"), tag("code", named)) if named else ""
    return str(tag("div", tag("p", tag("b", face.title)), table, *notes, told))


def to_frame(face: Face) -> Any:
    """The rows of a face as a pandas DataFrame.

    Raises
    ------
    DependencyMissing
        pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise DependencyMissing("to_frame() needs pandas: pip install 'featurepipe[notebook]'") from error
    return pandas.DataFrame([dict(row) for row in face.rows])


def plain(key: str) -> Column:
    """Shows a value as it is; nothing where there is none."""
    return lambda row: "" if row.get(key) is None else f"{row[key]}"


def count(key: str) -> Column:
    """Shows a number of things."""
    return lambda row: "" if row.get(key) is None else f"{row[key]:,}"


def number(key: str, digits: int = 3) -> Column:
    """Shows a number with this many digits after the point."""
    return lambda row: "" if row.get(key) is None else f"{row[key]:.{digits}f}"


def share(key: str) -> Column:
    """Shows a fraction in percent."""
    return lambda row: "" if row.get(key) is None else percent(row[key])


def points(key: str) -> Column:
    """Shows a difference of fractions in percentage points."""
    return lambda row: "" if row.get(key) is None else f"{100 * row[key] + 0.0:+.1f}"


def between(low: str = "low", high: str = "high") -> Column:
    """Shows the ends of an interval of a fraction, in percent."""
    return lambda row: "" if row.get(low) is None else f"{100 * row[low]:.1f}–{100 * row[high]:.1f}"


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.1f} %"
