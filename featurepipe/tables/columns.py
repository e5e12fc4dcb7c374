"""Which column of a table is meant, and what the others look like."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from featurepipe.errors import ManifestError

NEAR = {  # what other tables call these columns
    "path": {"file", "filename", "filepath", "files", "image", "images", "imagepath", "imagefile", "imagename", "img"}
    | {"imgpath", "imageid", "name", "location", "uri", "url", "paths"},
    "label": {"class", "classname", "classid", "labels", "target", "category", "y", "species", "diagnosis", "tag"}
    | {"tags", "classes", "labelname", "groundtruth"},
    "split": {"set", "subset", "partition", "fold", "usage", "dataset", "phase", "splits", "datasplit"},
}
OPTIONS = {"path": "--path-column", "label": "--label-column"}
GROUPS = {"patient", "subject", "participant", "person", "individual", "group", "session", "donor", "slide", "video"}
CORNERS = [{"x0", "y0", "x1", "y1"}, {"x1", "y1", "x2", "y2"}, {"xmin", "ymin", "xmax", "ymax"}]
BOXES = {"bbox", "bboxes", "box", "boxes", "boundingbox", "boundingboxes", "polygon", "segmentation", "mask"}


def match_columns(path: Path, columns: Sequence[str], wanted: Iterable[str]) -> dict[str, int]:
    """Where each wanted column is, if it is there.

    Raises
    ------
    ManifestError
        A column that is there twice.
    """
    found: dict[str, int] = {}
    for name in wanted:
        fitting = places_of(name, columns)
        if len(fitting) > 1:
            named = " and ".join(repr(columns[i]) for i in fitting)
            raise ManifestError(f"{path} has several columns for {name!r} ({named}); rename or remove all but one")
        if fitting:
            found[name] = fitting[0]
    return found


def places_of(name: str, columns: Sequence[str]) -> list[int]:
    """Where a column is: under its own name, or else under one that differs in case or blanks only."""
    own = [i for i, column in enumerate(columns) if column == name]
    return own or [i for i, column in enumerate(columns) if _folded(column) == _folded(name)]


def check_columns(path: Path, columns: Collection[str], needed: Collection[str]) -> None:
    """Raise ManifestError naming a column that is needed and not there, and the one that may be meant."""
    there = list(columns)
    found = match_columns(path, there, needed)
    for name in needed:
        if name not in found:
            listed = ", ".join(there) or "none"
            raise ManifestError(f"{path} has no column {name!r} (its columns: {listed}){_hint(name, there)}")


def remarks(unused: Sequence[str], used: Collection[str]) -> list[str]:
    """What columns that are not used look like, where they seem to matter."""
    said = []
    for name in ("label", "split"):
        near = [column for column in unused if _letters(column) in NEAR[name]]
        if near and name not in used:
            how = f"to use it say {OPTIONS[name]} {near[0]}" if name in OPTIONS else f"to use it call it {name!r}"
            said.append(f"the column {near[0]!r} is not used; if it holds the {name}s, {how}")
    groups = [column for column in unused if GROUPS & set(re.split(r"[^a-z]+", column.casefold()))]
    if groups and not {"split", "group"} & set(used):
        said.append(
            f"the column {groups[0]!r} is not used: samples of one {_folded(groups[0])} may be in train and in test; "
            f"to keep them together say --group {shlex.quote(groups[0])}"
        )
    plain = {_letters(column): column for column in unused}
    boxes = next((corners for corners in CORNERS if corners <= plain.keys()), BOXES & plain.keys())
    if boxes:
        named = ", ".join(plain[name] for name in plain if name in boxes)
        said.append(
            f"boxes are not used ({named}): the whole image is embedded; to embed the boxes, write each "
            "as x0,y0,x1,y1 into a column 'part', or into the columns x0, y0, x1 and y1"
        )
    return said


def _hint(name: str, columns: Sequence[str]) -> str:
    near = [column for column in columns if _letters(column) in NEAR.get(name, ())]
    return f"; if {near[0]!r} is meant, say {OPTIONS[name]} {near[0]}" if near and name in OPTIONS else ""


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
