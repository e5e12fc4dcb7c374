"""Files sorted into folders by what a model says of them.

Names of classes and files are the words of strangers. So a folder's name never leads out of its folder, never means
something else to another system, and never stands for two classes; and no file is ever replaced.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurepipe.characters import STEERING
from featurepipe.digests import sha256_bytes
from featurepipe.errors import ManifestError, OutputError
from featurepipe.files import refusal, sweep, write_new
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest, Sample
from featurepipe.media import MEDIA

UNSURE = "_unsure"
LONGEST = 200  # bytes of a name, of the 255 that file systems take: temporary names are longer
SUFFIX = re.compile(r"(?<=.)\.[A-Za-z0-9]{1,8}$")
SHORT = 8  # digits of a digest that tells names apart
FORBIDDEN = re.compile(r'[/\\:*?"<>|]')  # the last seven by Windows
RESERVED = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\..*)?", re.IGNORECASE)  # of Windows
SIGNATURES = (  # first bytes, and those from the eighth on
    (b"\xff\xd8\xff", b"", ".jpg"),
    (b"\x89PNG", b"", ".png"),
    (b"GIF8", b"", ".gif"),
    (b"BM", b"", ".bmp"),
    (b"II*\0", b"", ".tif"),
    (b"MM\0*", b"", ".tif"),
    (b"RIFF", b"WEBP", ".webp"),
    (b"RIFF", b"WAVE", ".wav"),
    (b"fLaC", b"", ".flac"),
    (b"OggS", b"", ".ogg"),
    (b"ID3", b"", ".mp3"),
)


def safe_name(text: str) -> str:
    r"""A name for a file or folder that is safe on every system; what had to be changed ends in a digest of the text.

    Examples
    --------
    >>> safe_name("red fox"), safe_name("../etc")
    ('red fox', '_._etc-f7f9121f')
    """
    name = STEERING.sub("_", FORBIDDEN.sub("_", text)).strip().rstrip(".")
    if name.startswith("."):
        name = f"_{name[1:]}"
    if not name or RESERVED.fullmatch(name):
        name = f"_{name}"
    if len(os.fsencode(name)) > LONGEST:
        stem, suffix = _split(name)
        name = os.fsencode(stem)[: LONGEST - len(suffix)].decode("utf-8", "ignore") + suffix
    return name if name == text else _told_apart(name, text.encode("utf-8", "surrogatepass"))


def _told_apart(name: str, data: bytes, digits: int = SHORT) -> str:
    """A name with a digest before its suffix."""
    stem, suffix = _split(name)
    return f"{stem}-{sha256_bytes(data)[:digits]}{suffix}"


def _split(name: str) -> tuple[str, str]:
    """A name without its suffix, and the suffix: a few letters or digits behind the last dot."""
    suffix = SUFFIX.search(name)
    return (name, "") if suffix is None else (name[: suffix.start()], suffix[0])


def folder_names(labels: Iterable[Any]) -> dict[str, str]:
    """The folder of each label, each its own, also on systems to which ``Cat`` and ``cat`` are one name.

    Raises
    ------
    OutputError
        Two labels come to the same name after all.

    Examples
    --------
    >>> folder_names(["cat", "dog"])
    {'cat': 'cat', 'dog': 'dog'}
    """
    names = {str(label): safe_name(str(label)) for label in labels}
    counts: dict[str, int] = {name_key(UNSURE): 1}
    for name in names.values():
        counts[name_key(name)] = counts.get(name_key(name), 0) + 1
    found = {
        label: _told_apart(name, label.encode("utf-8", "surrogatepass")) if counts[name_key(name)] > 1 else name
        for label, name in names.items()
    }
    taken: dict[str, str] = {}
    for label, name in found.items():
        if (other := taken.setdefault(name_key(name), label)) != label:
            raise OutputError(f"the classes {other!r} and {label!r} would share the folder {name}; rename one of them")
    return found


def name_key(name: str) -> str:
    """What two names have in common that are one name to some system."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass
class Copied:
    """What became of files.

    Attributes
    ----------
    written, same : int
        How many were copied, and how many were there already.
    failed : dict
        Sample id → why it was not copied.
    """

    written: int = 0
    same: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def check(folder: Path, manifests: Mapping[str, Manifest], data: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse, before anything is computed, to sort samples into a folder where that cannot be done.

    Raises
    ------
    OutputError
        The folder is a file, may not be written to, or is inside of the data.
    ManifestError
        Samples are parts of files, or several files each.
    """
    if len(manifests) > 1:
        raise ManifestError(
            f"each sample is several files ({', '.join(manifests)}), and --copy-to sorts single files; leave it out"
        )
    (manifest,) = manifests.values()
    if parts := sum(sample.part is not None for sample in manifest.samples):
        raise ManifestError(
            f"{parts} samples are parts of files, such as clips or boxes, and --copy-to sorts whole files; leave it out"
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; name a folder for the copies")
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK):
        raise OutputError(f"{folder} cannot be written: {there} is read-only here; name another folder for the copies")
    for place in map(Path, data):
        if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
            raise OutputError(
                f"{folder} is inside of {place}, where copies would be taken for samples the next time; name a folder "
                "outside of it"
            )


def sort(
    folder: Path,
    manifest: Manifest,
    samples: Sequence[Sample],
    labels: Sequence[Any],
    classes: Iterable[Any],
    listener: Listener,
) -> Copied:
    """Copy the files of samples into folders by their labels; a second time nothing is left to do.

    A file keeps its name. Where another content has that name already, a digest of its own content is added.

    Parameters
    ----------
    folder : Path
        It is made if it is missing.
    manifest : Manifest
        Where the samples are.
    samples : sequence of Sample
    labels : sequence
        What each is taken for; None goes to the folder of those without an answer.
    classes : iterable
        All labels that there are: folders are named the same whichever of them occur.
    listener : Listener
        Hears progress.

    Raises
    ------
    OutputError
        The system does not let a file be written; what is finished is kept.
    """
    names, made, done = folder_names(classes), set[Path](), Copied()
    with listener.progress("copying", len(samples)) as advance:
        for sample, label in zip(samples, labels, strict=True):
            place = folder / (UNSURE if label is None else names[str(label)])
            if place not in made:
                _make(place)
                made.add(place)
            try:
                data = manifest.source.read(sample.place)
                if not isinstance(data, bytes):
                    raise OSError("it is not a file")
            except OSError as error:
                done.failed[sample.id] = str(error)
            else:
                if _put(place, _file_name(sample, data, manifest.medium or "image"), data):
                    done.written += 1
                else:
                    done.same += 1
            advance(1)
    return done


def _make(place: Path) -> None:
    """Make a folder of a class; one that is there must not lead elsewhere."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        is_folder = stat.S_ISDIR(place.lstat().st_mode)
    except FileExistsError:
        is_folder = False
    except OSError as error:
        raise OutputError(refusal(place, error)) from error
    if not is_folder:
        raise OutputError(f"{place} is a link or a file, and copies would go there; move it, or name another folder")
    sweep(place)


def _file_name(sample: Sample, data: bytes, medium: str) -> str:
    """What a copy is called: as the sample, with a suffix that says what it is."""
    name = sample.id.rpartition("/")[2]
    known = MEDIA[medium].suffixes | MEDIA[medium].also
    if os.path.splitext(name)[1].lower() not in known:
        name += ".txt" if medium == "text" else _suffix(data)
    return safe_name(name)


def _suffix(data: bytes) -> str:
    """The suffix of a content, by its first bytes; empty where they do not tell."""
    if data[4:8] == b"ftyp":
        return ".mp4"
    found = (suffix for first, then, suffix in SIGNATURES if data.startswith(first) and data[8:].startswith(then))
    return next(found, "")


def _put(place: Path, name: str, data: bytes) -> bool:
    """Write a content under its name, or one next to it; False where it is there already."""
    for path in (place / name, place / _told_apart(name, data), place / _told_apart(name, data, 64)):
        with suppress(FileExistsError):
            write_new(path, data)
            return True
        if _holds(path, data):
            return False
    raise OutputError(f"{place / name} is taken by other files, under every name for this one; empty {place}")


def _holds(path: Path, data: bytes) -> bool:
    """Whether a file that is not a link has that content."""
    try:
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
