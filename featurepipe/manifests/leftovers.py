"""What a data set holds and its manifest does not: counted, so that nothing is left out without a word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Folders that programs make next to people's files: of NAS systems, Windows, Linux, macOS and Jupyter
RUBBISH = frozenset(
    {
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "lost+found",
        "$recycle.bin",
        "system volume information",
        "__macosx",
        ".ipynb_checkpoints",
    }
)
# Pictures that no decoder here reads: of phones, cameras, drawing programs, microscopes and hospitals
_SUFFIXES = (
    "jxl jxr wdp hdp j2k jpf jpx jpm jpc apng pnm pfm pam pcx dib sgi dds icns qoi exr hdr bpg flif "
    "psd psb xcf svg svgz dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f 3fr erf kdc mrw iiq "
    "nii nrrd mha mhd svs ndpi mrxs czi nd2 lif lsm vsi oib oif fits"
)
PICTURES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

NAMED = 3  # links


@dataclass
class LeftOut:
    """What was left out of a manifest.

    Attributes
    ----------
    files : Counter
        Suffix in lower case ('' for none) → number of files that are not images, or cannot be read.
    rubbish : Counter
        Name of a folder that programs make (``@eaDir``, ``lost+found``) → number of files in all of that name.
    barren : dict
        Folder in the place of a class or a split that gives no image → number of other files in it.
    hidden : int
        Files and folders whose names begin with a dot; what is in such folders is not counted.
    special : int
        Pipes, sockets and devices.
    loops : int
        Links that lead back up, or to a folder that another link led to before: these would never end.
    links : list of str
        The first of them, as paths from the folder that was read: each may have been a class.
    columns : list of str
        Columns of the table that are not used.
    remarks : list of str
        What those columns look like, where they seem to matter.
    blank_rows, doubles : int
        Rows of the table without any cell, and rows that say the same as another one.
    missing : Counter
        Text that means no label (``NA``, ``NaN``) → number of cells.
    """

    files: Counter[str] = field(default_factory=Counter)
    rubbish: Counter[str] = field(default_factory=Counter)
    barren: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    special: int = 0
    loops: int = 0
    links: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    blank_rows: int = 0
    doubles: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    @property
    def pictures(self) -> int:
        """Files that are plainly pictures, in formats that are not read."""
        return sum(count for suffix, count in self.files.items() if suffix in PICTURES)

    def add_link(self, path: str) -> None:
        """Count a link, and name it if it is one of the first."""
        self.loops += 1
        if len(self.links) < NAMED:
            self.links.append(path)

    def add(self, other: LeftOut) -> None:
        """Count what was left out of another manifest too."""
        for key, value in vars(other).items():
            mine = getattr(self, key)
            setattr(
                self, key, mine | value if isinstance(value, dict) and not isinstance(value, Counter) else mine + value
            )

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, and the number of ``pictures``."""
        plain = {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()}
        return {**plain, "pictures": self.pictures}

    def lines(self) -> list[str]:
        """What was left out, in a line, and a line for each thing that seems to matter; none where nothing was."""
        parts = [
            _count(n, f"{suffix} file".strip()) + ("" if suffix else " without a suffix")
            for suffix, n in _largest(self.files)
        ]
        parts += [f"{_count(n, 'file')} in folders called {name}" for name, n in _largest(self.rubbish)]
        parts += [_count(self.hidden, "hidden file or folder", "hidden files or folders")] if self.hidden else []
        parts += [_count(self.special, "pipe or device", "pipes or devices")] if self.special else []
        back = "link that leads back or where one did", "links that lead back or where others did"
        more = ", …" if self.loops > len(self.links) else ""
        parts += [f"{_count(self.loops, *back)} ({', '.join(self.links)}{more})"] if self.loops else []
        parts += [_count(self.doubles, "row that repeats another", "rows that repeat others")] if self.doubles else []
        parts += [_count(self.blank_rows, "blank row")] if self.blank_rows else []
        parts += [f"the column{'s' * (len(self.columns) > 1)} {shortened(self.columns)}"] if self.columns else []
        lines = [f"left out: {', '.join(parts)}"] if parts else []
        if self.pictures:
            lines.append(
                f"{_count(self.pictures, 'file')} left out {'is a picture' if self.pictures == 1 else 'are pictures'} "
                "in a format that is not read here; convert to JPEG or PNG to use them"
            )
        if self.barren:
            named = [f"{name} ({_count(n, 'other file') if n else 'empty'})" for name, n in self.barren.items()]
            lines.append(
                f"nothing to read in {'these folders' if len(named) > 1 else 'the folder'}: {shortened(named)}"
            )
        if self.missing:
            cells = ", ".join(f"{text!r} in {_count(n, 'row')}" for text, n in _largest(self.missing))
            lines.append(f"read as no label: {cells}; if that is a class, write it in another way")
        return [*lines, *self.remarks]


def shortened(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _largest(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"
