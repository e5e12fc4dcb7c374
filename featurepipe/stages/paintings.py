"""The stage `paint`: what a segmentation model says of the pixels of new images, as masks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, manifests, models, segmentation
from featurepipe.cards import Segmented
from featurepipe.errors import ManifestError, ModelFileError, OutputError, SampleError
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests import Manifest, Sample
from featurepipe.models import Model
from featurepipe.results import presented
from featurepipe.segmentation import Files, Painter, Patches
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.stages.extractions import digest
from featurepipe.stages.predictions import fill
from featurepipe.stages.streams import check_read
from featurepipe.stores import Row
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import ColumnOptions, ComputeOptions, OriginOptions


@guarded
@presented
@spread(columns=ColumnOptions, origin=OriginOptions, compute=ComputeOptions)
def paint(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    overlays: bool = False,
    columns: ColumnOptions,
    origin: OriginOptions,
    compute: ComputeOptions,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Write a mask of each image, in the image's own size, by a model of `segment`.

    Images go through the network once, and their tokens are not kept. Each mask is written as soon as its tokens are
    there, so whatever ends a run early leaves the finished masks.

    Parameters
    ----------
    model : path
    data : path, or sequence of path
        Images, folders or tables.
    output : path
        New folder for the masks: ``ID.png``, below it as the images are below theirs. Pixels are the values of the
        masks that the model was trained on; if those were colours, the number of the class. What the network does not
        see of an image gets the ignored value, or else the nearest prediction. Unsafe names are changed.
    overlays : bool
        Also write each image with the colours of its mask over it, ``ID.overlay.png``.
    columns
    origin
    compute
    force : bool
        Also write into a folder that holds files, and replace them, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, output, painted`` (how many images), ``classes`` (name → ``images`` with any pixel of it, and its
        ``share`` of all pixels), ``images`` (for each ``id, mask, overlay`` (a path, or None) and ``shares``, class →
        share of the image's pixels), ``seen_in_training, rejected, rejects`` (sample id → reason),
        ``found`` (what the data are), ``seconds``.

    Raises
    ------
    ModelFileError
        The model is not a segmentation.
    ManifestError
        No image can be read, or samples are parts of images.
    OutputError
        The folder holds files, or a mask cannot be written, or would replace what it must not.

    Examples
    --------
    >>> from PIL import Image
    >>> from featurepipe import extract, segment
    >>> for path in sorted(Path("data/digits/test/3").glob("*.png")):  # masks: where the digit is
    ...     mask = Path("/tmp/painted/masks", path.name)
    ...     mask.parent.mkdir(parents=True, exist_ok=True)
    ...     Image.open(path).convert("L").point(lambda value: value > 100).convert("L").save(mask)
    >>> store = extract("data/digits/test/3", "/tmp/painted/store", backbone="bundled", tokens=True)["store"]
    >>> trained = segment(store, "/tmp/painted/masks", force=True)
    >>> found = paint(trained["model"], "data/digits/test/3/1202.png", "/tmp/painted/new", force=True)
    >>> found["painted"], sorted(found["classes"])
    (1, ['0', '1'])
    """
    started, folder = time.perf_counter(), Path(output)
    _check_folder(folder, force=force)
    file = models.locate(model)
    loaded = models.load_of_pixels(file)
    painter = _painter(loaded, file)
    places = [data] if isinstance(data, str | PathLike) else list(data)
    manifest = clips.gather(places, columns, listener, "image")
    clips.check_medium("image", manifest, str(file))
    _check_whole(manifest)
    inputs = [file, *(one["source"]["weights"] for one in loaded.backbones), *map(manifest.file, manifest.samples)]
    ids = (sample.id for sample in manifest.samples)
    targets = segmentation.places(folder, ids, inputs, overlays=overlays, force=force)
    for note in manifest.left_out.lines():
        listener.note(f"note: {note}")
    (extractor,) = models.open_backbones(loaded, file, **vars(origin), note=listener.note)
    rows, unreadable = digest(manifest, compute.workers, listener)
    sink = _Masks(painter, manifest, rows, targets, extractor.spec, loaded.classes.tolist())
    rejects = fill(sink, rows, unreadable, manifest, extractor, compute, listener) | sink.rejects
    check_read(len(sink.images), rejects, manifest, "image")
    done = {one["id"] for one in sink.images}
    seen = loaded.has_seen([row.digest for row in rows if row.sample.id in done])
    return {
        "model": str(file),
        "output": str(folder),
        "painted": len(sink.images),
        "classes": sink.classes,
        "images": sorted(sink.images, key=lambda one: one["id"]),
        "seen_in_training": int(seen.sum()),
        "rejected": len(rejects),
        "rejects": rejects,
        "found": manifests.summarise(manifest),
        "seconds": round(time.perf_counter() - started, 3),
    }


class _Masks:
    """A sink that writes the mask of each image and keeps no tokens."""

    def __init__(
        self,
        painter: Painter,
        manifest: Manifest,
        rows: Sequence[Row],
        targets: Mapping[str, Files],
        spec: Mapping[str, Any],
        classes: Sequence[str],
    ) -> None:
        self._painter, self._source, self._targets, self._spec = painter, manifest.source, targets, spec
        self._samples: dict[str, list[Sample]] = {}
        for row in rows:
            self._samples.setdefault(row.digest, []).append(row.sample)
        self._classes = list(map(str, classes))
        self._pixels, self._with = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
        self.images: list[dict[str, Any]] = []
        self.rejects: dict[str, str] = {}

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch, one row of `vectors` (B, H·W·D) per digest."""
        for key, tokens in zip(digests, backbones.as_rows(self._spec, vectors), strict=True):
            for sample in self._samples[key]:
                self._paint(sample, tokens)

    def commit(self) -> None:
        """Nothing is left to do."""

    def _paint(self, sample: Sample, tokens: np.ndarray) -> None:
        mask, overlay = self._targets[sample.id]
        try:
            said = self._painter.paint(tokens, bytes(self._source.read(sample.place)), (mask, overlay))
        except OutputError:
            raise
        except (SampleError, OSError) as error:
            self.rejects[sample.id] = str(error)
            return
        counts = np.bincount(said.ravel(), minlength=len(self._classes))
        self._pixels += counts
        self._with += counts > 0
        shares = dict(zip(self._classes, (counts / said.size).tolist(), strict=True))
        files = {"mask": str(mask), "overlay": None if overlay is None else str(overlay)}
        self.images.append({"id": sample.id, **files, "shares": shares})

    @property
    def classes(self) -> dict[str, dict[str, Any]]:
        """On how many images each class is, and its share of all pixels."""
        shares = self._pixels / max(1, self._pixels.sum())
        return {
            name: {"images": int(count), "share": float(share)}
            for name, count, share in zip(self._classes, self._with, shares, strict=True)
        }


def _check_folder(folder: Path, *, force: bool) -> None:
    """Raise OutputError unless masks can go into a folder of their own."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; name a new folder for the masks with -o")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"{folder} holds files already; name a new folder for the masks with -o, or write into this one with "
            "--force"
        )


def _check_whole(manifest: Manifest) -> None:
    if parts := sum(sample.part is not None for sample in manifest.samples):
        raise ManifestError(
            f"{parts} samples are parts of images, such as boxes, and masks are of whole images; give the images "
            "themselves"
        )


def _painter(model: Model, file: Path) -> Painter:
    """What makes masks as a model file says it.

    Raises
    ------
    ModelFileError
        Its card names other classes than its head has.
    SegmentationError
        Masks cannot follow its transform.
    """
    transform = model.backbone["spec"]["transform"]
    segmentation.window_of(transform, transform["input_size"][:0:-1])
    said = model.card.segmentation
    values = _values(said, len(model.classes))
    if len(values) != len(model.classes):
        raise ModelFileError(
            f"{file}: its card has {len(values)} values of masks for {len(model.classes)} classes; make it again with: "
            "featurepipe segment"
        )
    patches = Patches(model.estimator.coef_, model.estimator.intercept_)
    return Painter(patches, transform, values, None if said is None else said.ignored)


def _values(said: Segmented | None, classes: int) -> np.ndarray:
    """What each class is in a mask: what the card says, or else its number."""
    return np.arange(classes) if said is None or said.mask_values is None else np.array(said.mask_values, np.int64)
