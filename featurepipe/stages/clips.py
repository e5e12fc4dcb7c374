"""Data sets as stages read them: files, or clips of them as samples of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurepipe import extraction, manifests, sounds, videos
from featurepipe.errors import BackboneError, ManifestError, SampleError
from featurepipe.estimators.datasets import is_dataset, of_dataset
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest, Sample, Samples
from featurepipe.manifests.manifest import TEXT
from featurepipe.media import plural, span_name
from featurepipe.sources import Content
from featurepipe.vocabulary import ColumnOptions

CLIPS = 100_000  # of one file, at most
DURATIONS: dict[str, Callable[[Any], float]] = {
    "sound": sounds.duration,
    "video": videos.duration,
}  # medium → seconds of a content


def read(
    data: Any, table: ColumnOptions, listener: Listener, medium: str | None = None, own: Sequence[str] = ()
) -> Manifest:
    """The manifest of a folder or a table, of clips where the options ask for them; the listener hears what was found.

    Parameters
    ----------
    data : path or data set
        See `featurepipe.manifests.read`, and `featurepipe.estimators.datasets.of_dataset` for data sets as objects.
    table : ColumnOptions
    listener : Listener
    medium : str, optional
        What the samples are, where the options do not say it.
    own : sequence of str
        Columns of a table that the caller reads itself.
    """
    if is_dataset(data):
        manifest = of_dataset(data)
        for line in manifests.describe(manifest):
            listener.note(line)
        return manifest
    columns, seconds, hop = _taken_apart(table, medium)
    return clipped(manifests.read_aloud(data, listener, own, **columns), seconds, hop, listener)


def read_each(data: str | Path, table: ColumnOptions, listener: Listener, media: Sequence[str]) -> dict[str, Manifest]:
    """As `read`, for each of several media: the same samples, or a table's texts and its files."""
    return {medium: read(data, _of_several(table, medium, media), listener, medium) for medium in media}


def gather_each(
    places: list[str | Path], table: ColumnOptions, listener: Listener, media: Sequence[str]
) -> dict[str, Manifest]:
    """As `gather`, for each of several media."""
    return {medium: gather(places, _of_several(table, medium, media), listener, medium) for medium in media}


def _of_several(table: ColumnOptions, medium: str, media: Sequence[str]) -> ColumnOptions:
    """The columns for one of several media: texts are in the column of texts, everything else is in files."""
    if len(media) == 1:
        return table
    if medium == TEXT:
        return replace(table, medium=None, path_column=None)
    return replace(table, medium=None, text_column=None)


def name_of(data: Any) -> str:
    """What results are called after: a path, or the class of a data set."""
    return type(data).__name__ if is_dataset(data) else str(data)


def gather(places: list[str | Path], table: ColumnOptions, listener: Listener, medium: str) -> Manifest:
    """As `read`, of files, folders and tables, and without a word: see `featurepipe.manifests.gather`."""
    columns, seconds, hop = _taken_apart(table, medium)
    return clipped(manifests.gather(places, **columns), seconds, hop, listener)


def _taken_apart(table: ColumnOptions, medium: str | None) -> tuple[dict[str, Any], float | None, float | None]:
    """What manifests are asked for, and the seconds of clips and from one to the next."""
    columns = dict(vars(table))
    seconds, hop = columns.pop("clip_seconds"), columns.pop("hop_seconds")
    if hop is not None and seconds is None:
        raise ManifestError("--hop-seconds is the distance between clips; add --clip-seconds")
    return {**columns, "medium": columns["medium"] or medium}, seconds, hop


def clipped(manifest: Manifest, seconds: float | None, hop: float | None, listener: Listener) -> Manifest:
    """Clips of the files of a manifest, each a sample called ``FILE@START-STOP``; itself where none are asked for.

    A file that is shorter than a clip is one clip; what is left over after the last whole clip is not used. A file
    that cannot be read stays one sample, to be rejected by name, and so does a sample that is a part already.

    Raises
    ------
    ManifestError
        The medium has no clips, or a file would have more than a hundred thousand.
    """
    if seconds is None:
        return manifest
    medium = manifest.medium or "image"
    if medium not in DURATIONS:
        raise ManifestError(
            f"{plural(medium)} have no clips, only {' and '.join(map(plural, DURATIONS))} have; "
            "leave out --clip-seconds"
        )
    step = hop or seconds

    def length(sample: Sample) -> float | None:
        try:
            return DURATIONS[medium](_content(manifest, sample)) if sample.part is None else None
        except (SampleError, OSError):
            return None

    samples = []
    with (
        listener.progress("finding clips", len(manifest)) as advance,
        ThreadPoolExecutor(extraction.default_workers()) as pool,
    ):
        for sample, found in zip(manifest.samples, pool.map(length, manifest.samples), strict=True):
            samples += [sample] if found is None else list(_clips(sample, found, seconds, step))
            advance(1)
    listener.note(f"{len(samples):,} clips of {len(manifest):,} {plural(medium)}")
    return replace(manifest, samples=Samples(sorted(samples)))


def _content(manifest: Manifest, sample: Sample) -> Content:
    return manifest.source.read(sample.place)


def _clips(sample: Sample, length: float, seconds: float, step: float) -> Iterator[Sample]:
    count = max(1, int((length - seconds) / step + 1e-9) + 1)
    if count > CLIPS:
        raise ManifestError(
            f"{sample.place} would be {count:,} clips, of more than {CLIPS:,}; give a larger --hop-seconds"
        )
    for number in range(count):
        start = number * step
        part = span_name(start, min(start + seconds, length))
        yield sample._replace(id=f"{sample.id}@{part}", part=part)


def check_medium(medium: str, manifest: Manifest, who: str) -> None:
    """Raise BackboneError unless data are of the medium that something is for, as far as they say."""
    if manifest.medium not in (None, medium):
        raise BackboneError(
            f"{who} is for {plural(medium)}, and {manifest.root} holds {plural(manifest.medium)}; give the one that "
            "fits the other"
        )
