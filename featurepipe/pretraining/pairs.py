"""Pictures with sounds: frames of videos with what is heard then, or images that a table pairs with sound files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featurepipe.errors import PretrainingError
from featurepipe.extraction import default_workers, read_batch
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest, Sample, Samples
from featurepipe.sounds import TextureTransform
from featurepipe.sources import Files
from featurepipe.stores import Pending, digest_rows
from featurepipe.tables import TABLE_SUFFIXES, Table

COLUMN = "sound"  # of the table
PIECE = 8  # sounds that a thread listens to at a stretch


@dataclass(frozen=True)
class Sounds:
    """What is heard with each picture.

    Attributes
    ----------
    textures : ndarray of float32, shape (m, 502)
    starts : ndarray of int64, shape (n + 1,)
        Picture i has the sounds ``numbers[starts[i]:starts[i + 1]]``.
    numbers : ndarray of int64
        Rows of `textures`.
    digests : sequence of str
        sha256 of each sound file, in the order of `textures`.
    """

    textures: np.ndarray
    starts: np.ndarray
    numbers: np.ndarray
    digests: Sequence[str] = ()

    def among(self, rows: np.ndarray, count: int) -> Sounds:
        """The same for all of `count` pictures, of which these are `rows`, in ascending order; others have no sound."""
        counts = np.zeros(count, np.int64)
        counts[rows] = np.diff(self.starts)
        return replace(self, starts=np.concatenate([[0], np.cumsum(counts)]))

    def drawn(self, rows: np.ndarray, seed: Sequence[int]) -> np.ndarray:
        """One sound of each of some pictures, int64 (B,); the seed decides which."""
        shares = np.random.default_rng(seed).random(len(self.starts) - 1)[rows]
        first, count = self.starts[rows], np.diff(self.starts)[rows]
        return self.numbers[first + (shares * count).astype(np.int64)]


def listen(
    pending: Sequence[Pending], workers: int | None, listener: Listener
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Digest → texture of sounds, and digest → reason of those that have none."""
    transform, found, lost = TextureTransform(), dict[str, np.ndarray](), dict[str, str]()
    pieces = [pending[start : start + PIECE] for start in range(0, len(pending), PIECE)]
    with (
        listener.progress("listening", len(pending)) as advance,
        ThreadPoolExecutor(workers or default_workers()) as pool,
    ):
        for piece, batch in zip(pieces, pool.map(lambda some: read_batch(some, transform), pieces), strict=True):
            found.update(zip(batch.digests, batch.inputs, strict=True))
            lost.update({**batch.rejects, **batch.unreadable})
            advance(len(piece))
    return found, lost


def of_table(path: Path, path_column: str) -> dict[str, list[str]]:
    """Image → sound files, both as a table has them in its column of files and in ``sound``.

    Raises
    ------
    PretrainingError
        A row has no sound, or the table has no such column.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise PretrainingError(
            f"{path} holds images, and the objective sound needs sounds; give videos, or a table whose column "
            f"{COLUMN!r} names a sound file for each image"
        )
    table = Table(path, [path_column], [COLUMN], keys=(path_column, COLUMN))
    found: dict[str, list[str]] = {}
    for number, cells in table:
        image, sound = (cells.get(name) for name in (path_column, COLUMN))
        if sound is None or image is None:
            raise PretrainingError(
                f"{path}: row {number} has no {COLUMN!r}; the objective sound needs a column {COLUMN!r} that names a "
                "sound file for each image, or videos"
            )
        found.setdefault(image.strip(), []).append(sound.strip())
    return found


def paired(
    places: Sequence[str], table: Mapping[str, Sequence[str]], root: Path, workers: int | None, listener: Listener
) -> tuple[Sounds, np.ndarray]:
    """The sounds of images, by a table.

    Parameters
    ----------
    places : sequence of str
        Each image's place, as the table has it.
    table : mapping
        See `of_table`.
    root : Path
        Where relative paths start.
    workers : int, optional
    listener : Listener

    Returns
    -------
    sounds : Sounds
    heard : ndarray of bool, shape (n,)
        Which images have a sound that can be read.
    """
    files = sorted({sound for place in places for sound in table.get(place, ())})
    samples = Samples(Sample(file, file, None, None, None, None) for file in files)
    manifest = Manifest(Files(str(root)), samples, medium="sound")
    rows, unreadable = digest_rows(manifest, workers or default_workers())
    digests = {row.sample.place: row.digest for row in rows}
    pending = [Pending.of(row, manifest.source) for row in rows if row.digest]
    found, lost = listen(list({one.digest: one for one in pending}.values()), workers, listener)
    silent = sum(digests[file] not in found for file in files)  # several may have the same content
    _tell(silent, len(files), [*unreadable.values(), *lost.values()], "sound files", listener)
    numbers = {digest: number for number, digest in enumerate(found)}
    own = [[numbers[digests[file]] for file in table.get(place, ()) if digests[file] in numbers] for place in places]
    return _sounds(found, own), np.array([bool(some) for some in own])


def heard(pending: Sequence[Pending], workers: int | None, listener: Listener) -> tuple[Sounds, np.ndarray]:
    """The sounds of videos, or of spans of them, as for `paired`."""
    found, lost = listen(pending, workers, listener)
    _tell(len(lost), len(pending), list(lost.values()), "videos", listener)
    numbers = {digest: number for number, digest in enumerate(found)}
    own = [[numbers[one.digest]] if one.digest in numbers else [] for one in pending]
    return _sounds(found, own), np.array([bool(some) for some in own])


def _sounds(found: Mapping[str, np.ndarray], own: Sequence[Sequence[int]]) -> Sounds:
    starts = np.concatenate([[0], np.cumsum([len(some) for some in own])]).astype(np.int64)
    numbers = np.array([one for some in own for one in some], np.int64)
    return Sounds(np.stack(list(found.values())), starts, numbers, list(found))


def _tell(lost: int, count: int, reasons: Sequence[str], what: str, listener: Listener) -> None:
    """Say how many have no sound; refuse where none has any."""
    if not lost:
        return
    if lost == count:
        raise PretrainingError(
            f"none of the {count} {what} has a sound that can be used (the first: {reasons[0]}); give others"
        )
    listener.note(f"note: {lost} of {count} {what} have no usable sound and are left out: {reasons[0]}")
