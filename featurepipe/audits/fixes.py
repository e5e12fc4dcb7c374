"""A new table of samples without what was found: nothing is deleted, and no label is changed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurepipe.audits.findings import Finding
from featurepipe.characters import safe_cell
from featurepipe.errors import OutputError
from featurepipe.files import write_text
from featurepipe.manifests import SPLITS, Sample, header, meaning
from featurepipe.matrices import FeatureMatrix
from featurepipe.sources import is_url
from featurepipe.stores import Row

COLUMNS = ("id", "path", "label", "split", "group", "part", "audit", "suggested_label")
SUFFIX = ".csv"


@dataclass(frozen=True)
class Fix:
    """What becomes of samples.

    Attributes
    ----------
    kept : ndarray of bool, shape (n,)
    split : ndarray of object (str or None), shape (n,)
        The new ones.
    said : dict of int to list of str
        Row → why a person should look at it.
    labels : dict of int to str
        Row → the label that it may have instead.
    """

    kept: np.ndarray
    split: np.ndarray
    said: dict[int, list[str]] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)

    def counts(self, samples: FeatureMatrix) -> dict[str, int]:
        """How many rows are left, and what was done to how many."""
        moved = self.kept & (self.split != samples.split)
        listed = [row for row in self.said if self.kept[row]]
        return {
            "rows": int(self.kept.sum()),
            "dropped": int((~self.kept).sum()),
            "moved": int(moved.sum()),
            "listed": len(listed),
        }


def fix(samples: FeatureMatrix, exact: Sequence[Finding], near: Sequence[Finding], others: Sequence[Finding]) -> Fix:
    """Drop exact copies, move what leaked out of the held-out splits, and list everything else.

    Of exact copies the one in the earliest split stays (train, val, test). Those whose labels differ all stay, since
    nobody knows which is right, but they come into one split. Of near copies none is dropped. What moves takes all
    samples of its group with it.

    Parameters
    ----------
    samples : FeatureMatrix
    exact, near, others : sequence of Finding
    """
    made = Fix(np.ones(len(samples), bool), samples.split.copy())
    _, units = np.unique(samples.units.astype(str), return_inverse=True)
    given = np.array([-1 if name is None else SPLITS.index(name) for name in samples.split])
    places = given.copy()
    apart = [list(finding.rows) for finding in [*exact, *near]]
    while apart := [rows for rows in apart if places[rows].min() < places[rows].max()]:  # moving one may part others
        for rows in apart:
            first = places[rows].min()
            late = np.isin(units, units[rows]) & (places > first)
            made.split[late], places[late] = SPLITS[first], first
    for finding in exact:
        if len({meaning(samples.y[row]) for row in finding.rows if samples.y[row] is not None}) < 2:
            stays = min(finding.rows, key=lambda row: (samples.y[row] is None, given[row], row))
            made.kept[[row for row in finding.rows if row != stays]] = False
    for finding in [*exact, *near, *others]:
        for row in finding.rows:
            made.said.setdefault(row, []).append(finding.kind)
            if finding.label is not None:
                made.labels[row] = finding.label
    return made


def write(path: Path, made: Fix, samples: FeatureMatrix, rows: Iterable[Row], root: str, *, safe: bool) -> None:
    """Write the table.

    Parameters
    ----------
    path : Path
    made : Fix
    samples : FeatureMatrix
        What it was made of.
    rows : iterable of Row
        All of a store's. Those that have no embedding stay as they are.
    root : str
        The folder that their places start from. In the table, they start from its own folder.
    safe : bool
        Whether a cell that a spreadsheet would take for a formula gets an apostrophe.
    """
    numbers = {id_: number for number, id_ in enumerate(samples.ids)}
    way = root if is_url(root) else os.path.relpath(root, path.absolute().parent)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        number = numbers.get(row.sample.id)
        if number is None or made.kept[number]:
            cells = _cells(row.sample, made, number, way)
            writer.writerow(map(safe_cell, cells) if safe else cells)
    write_text(path, text.getvalue())


def _cells(sample: Sample, made: Fix, number: int | None, way: str) -> list[str]:
    if is_url(sample.place) or is_url(way):
        place = sample.place if is_url(sample.place) else f"{way.rstrip('/')}/{sample.place}"
    else:
        place = os.path.normpath(os.path.join(way, sample.place)).replace(os.sep, "/")
    split, said, label = sample.split, "", None
    if number is not None:
        split, said, label = made.split[number], "; ".join(made.said.get(number, ())), made.labels.get(number)
    return [cell or "" for cell in (sample.id, place, sample.label, split, sample.group, sample.part, said, label)]


def is_table(path: Path) -> bool:
    """Whether a file is a table that `write` made."""
    return tuple(header(path)) == COLUMNS


def check_suffix(path: Path) -> None:
    """Raise OutputError for a table of another kind than CSV."""
    if path.suffix.lower() != SUFFIX:
        raise OutputError(f"the new table is CSV; give --fix a name that ends in .csv, not {path.name}")
