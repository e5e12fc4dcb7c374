"""The stage `segment`: cached tokens and masks → a model file that gives a class to each pixel."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import images, matrices, models, probes, reports, segmentation
from featurepipe.cards import Card, Data, Segmented, Selection, Splits
from featurepipe.errors import OutputError, SegmentationError
from featurepipe.extraction import now, versions
from featurepipe.files import check_output, write_text
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices import FeatureMatrix, TokenRows
from featurepipe.matrices.parts import is_unsplit, sizes, split_by_content
from featurepipe.reports.looks import Look, jpeg
from featurepipe.results import presented
from featurepipe.segmentation import FINER, Choice, Masks, Patches
from featurepipe.stores import Entry, Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary.names import SEGMENTATION_KINDS

AUTO, LOGISTIC, COLOUR = "auto", "logistic", "colour"
FOLDS = 5
EPOCHS = 100


@guarded
@presented
def segment(
    store: str | Path,
    masks: str | Path,
    output: str | Path | None = None,
    *,
    kind: str = AUTO,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    backbone: str | None = None,
    epochs: int = EPOCHS,
    baselines: bool = True,
    save: str | Path | None = None,
    report: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Train a linear classifier of patches on cached tokens and masks, and write it as a model file.

    Scores of patches are interpolated to pixels. Figures are of the original pixels of images that nothing was learned
    from or chosen on: of ``test``, or else of ``val``, or of a fifth that is held out where there are no splits.

    Parameters
    ----------
    store : path
        With tokens: ``extract(…, tokens=True)``. Extract with ``crop_mode='squash', crop_pct=1`` to see whole images.
    masks : path
        A table with the columns ``path`` (or ``id``) and ``mask``, or a folder of masks that are called as their
        images. Pixels are class numbers, entries of a palette, or one colour for each class. Images without a mask are
        left out.
    output : path, optional
        Model file; by default ``segmentation.safetensors`` in the folder of the tokens.
    kind : {'auto', 'ridge', 'lda', 'logistic'}
        ``ridge`` and ``lda`` in closed form from sums that are read once; their strength is chosen by 5-fold
        cross-validation on all images that are not reported. ``auto``: the better of the two there. ``logistic``: batch
        norm and a 1×1 convolution by gradient descent, as DINOv2 is evaluated; nothing is chosen.
    classes : sequence of str, optional
        What the classes are called, in the order of their values in the masks.
    ignore : int, optional
        Value of pixels that do not count, such as 255.
    backbone : str, optional
        Which tokens of the store, where it holds several.
    epochs : int
        Epochs of ``logistic``.
    baselines : bool
        Also fit the mean colour of each patch; images are then decoded once more.
    save : path, optional
        Folder for the predicted mask of each reported image (``ID.png``) and for the image with the mask's colours over
        it (``ID.overlay.png``). Pixels are the values of the masks that were given; of colours, the number of the
        class. What the network has not seen is `ignore`, or else the nearest prediction. Unsafe names are changed.
    report : path, optional
        HTML page of the figures, with the worst, middle and best of the reported images as small pictures. By default
        next to the model file, with the suffix ``.html``.
    seed : int
        Seed of splits and folds, and of ``logistic``.
    force : bool
        Also replace a file that featurepipe did not write.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, backbone, grid, kind, strength, classes, splits, evaluated_on, seconds, fit_seconds, without_mask``
        (how many samples have none), ``folds`` (of the cross-validation that chose the strength; 0: nothing chose),
        ``path`` (``kind, strength, miou`` of every candidate, in cross-validation), and the figures ``n, miou,
        miou_interval, pixel_accuracy, pixel_accuracy_interval, per_class``; ``baselines`` with
        those of ``colour``; ``covered`` (share of the reported pixels that the network has seen; others do not count);
        ``images`` (for each reported image ``id`` and its own ``miou``, None where no pixel counts); ``confused`` (the
        classes most often taken for another: ``true, predicted, pixels, share``); ``report`` (the page).

    Raises
    ------
    SegmentationError
        Masks of another size than their images, of one class, or with values that no training mask has; or a transform
        that masks cannot follow.
    StoreError
        The store has no tokens.

    References
    ----------
    Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision", section 7.4 (linear segmentation).
    """
    started = time.perf_counter()
    if kind not in SEGMENTATION_KINDS:
        raise SegmentationError(f"kind {kind!r} is unknown; use {', '.join(SEGMENTATION_KINDS)}")
    opened = Store.open(store)
    entry = opened.choose(backbone, tokens=True)
    path = Path(output) if output is not None else entry.folder / "segmentation.safetensors"
    models.check_output(path, force=force)
    work = _Work.of(opened, entry, masks, classes, ignore, seed)
    targets = {} if save is None else work.targets(Path(save), force=force)
    page = Path(report) if report is not None else path.with_suffix(".html")
    if page.absolute() == path.absolute():
        raise OutputError(f"{page} is the name of the model file, too; give the report another name with --report")
    check_output(page, "report", reports.is_page, [path, masks, *work.inputs()], force=force)
    counts = sizes(work.rows.split)
    listener.note(f"{kind} segmentation on {entry.title}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    for note in work.notes:
        listener.note(f"note: {note}")
    learned = np.flatnonzero(work.rows.split != work.reported)
    held = work.shares_of(learned, listener)
    at = time.perf_counter()
    made = _fit(work.tokens, learned, held, work, kind, epochs, seed, listener)
    fit_seconds = time.perf_counter() - at
    found = work.measure(work.tokens, made.patches, listener)
    result: dict[str, Any] = {
        "model": str(path),
        "backbone": entry.name,
        "grid": list(entry.grid or ()),
        "kind": made.kind,
        "strength": made.strength,
        "folds": made.folds,
        "classes": list(work.masks.names),
        "splits": counts,
        "evaluated_on": work.reported,
        **found,
        "path": made.path,
        "baselines": {},
        "without_mask": work.without,
        "fit_seconds": round(fit_seconds, 3),
    }
    if baselines:
        colours = _Colours(work, entry)
        plain = _fit(colours, learned, held, work, AUTO if kind == LOGISTIC else kind, epochs, seed, listener)
        measured = work.measure(colours, plain.patches, listener)
        result["baselines"] = {COLOUR: {key: measured[key] for key in FIGURES}}
    models.save(path, _model(work, made, result, seed))
    work.paint(made.patches, targets, listener)
    looks = work.looks(made.patches, reports.exemplars(result["images"]))
    write_text(page, reports.segmentation_page(result, work.data, _how_made(entry, seed), looks))
    return {**result, "report": str(page), "seconds": round(time.perf_counter() - started, 3)}


class _Work:
    """What is learned from, and measured: rows of a store that have masks."""

    def __init__(self, store: Store, entry: Entry, rows: FeatureMatrix, masks: Masks, places: dict[str, str]) -> None:
        self.store, self.entry, self.rows, self.masks, self._places = store, entry, rows, masks, places
        self.tokens = TokenRows(entry, rows)
        self.source = store.source
        self.reported = "test" if (rows.split == "test").any() else "val"
        self.notes: list[str] = []
        self.without = 0

    @classmethod
    def of(
        cls,
        store: Store,
        entry: Entry,
        masks: str | Path,
        classes: Sequence[str] | None,
        ignore: int | None,
        seed: int,
    ) -> _Work:
        """Find masks and splits.

        Raises
        ------
        SegmentationError
            There are no masks, or not what can be learned from.
        """
        outlined = matrices.outline(store, entry)
        samples = {row.sample.id: row.sample for row in store.rows()}
        if any(samples[id_].part is not None for id_ in outlined.ids):
            raise SegmentationError("masks are of whole images, and this store holds parts of them")
        places = {id_: samples[id_].place for id_ in outlined.ids.tolist()}
        found = segmentation.find_masks(masks, places.items())
        has = np.array([id_ in found for id_ in outlined.ids])
        rows = outlined.take(has)
        rows = _split(rows, seed)
        reported = "test" if (rows.split == "test").any() else "val"
        known = segmentation.learn_classes(found, rows.ids[rows.split != reported].tolist(), classes, ignore)
        work = cls(store, entry, rows, known, places)
        work.without = int((~has).sum())
        if work.without:
            work.notes.append(f"{work.without} images have no mask and are left out")
        return work

    def _image(self, number: int) -> bytes:
        return bytes(self.source.read(self._places[self.rows.ids[number]]))

    def shares_of(self, numbers: np.ndarray, listener: Listener) -> _Held:
        """Shares of classes in finer cells of pictures."""
        assert self.entry.grid is not None
        made = _Held((FINER * self.entry.grid[0], FINER * self.entry.grid[1], len(self.masks.names)))
        with listener.progress("reading masks", len(numbers)) as advance:
            for number in numbers.tolist():
                mask, window, _ = self.mask_of(number)
                made.append(segmentation.shares(mask, window, made.shape[:2], made.shape[2]))
                advance(1)
        return made

    def mask_of(self, number: int) -> tuple[np.ndarray, segmentation.Window, tuple[int, int]]:
        """A picture's mask in class numbers, its window, and its width and height."""
        size = images.size_of(self._image(number))
        window = segmentation.window_of(self.entry.spec["transform"], size)
        return self.masks.read(self.rows.ids[number], size), window, size

    def measure(self, tokens: Any, patches: Patches, listener: Listener) -> dict[str, Any]:
        """The figures of the reported images, of each by itself, and the share of their pixels that count."""
        numbers, count = self.numbers, len(self.masks.names)
        found, seen, whole = [], 0, 0
        with listener.progress("measuring", len(numbers)) as advance:
            for number in numbers.tolist():
                mask, window, size = self.mask_of(number)
                said = segmentation.classify(patches.scores(tokens[np.array([number])][0]), window, size)
                truth = mask[window.rows, window.columns]
                found.append(segmentation.confusion(truth, said, count))
                seen, whole = seen + int((truth >= 0).sum()), whole + int((mask >= 0).sum())
                advance(1)
        matrices = np.stack(found)
        return {
            **segmentation.figures(matrices, self.masks.names, self.rows.units[numbers]),
            "covered": seen / max(whole, 1),
            "images": [
                {"id": str(id_), "miou": segmentation.mean_iou(one) if one.any() else None}
                for id_, one in zip(self.rows.ids[numbers], matrices, strict=True)
            ],
            "confused": segmentation.confused(matrices.sum(0), self.masks.names),
        }

    @property
    def data(self) -> str:
        """What the data set is called."""
        root = str(self.store.source_root)
        return Path(root).name or root

    def looks(self, patches: Patches, shown: dict[str, list[str]]) -> dict[str, list[Look]]:
        """Of each image that is shown: the image, its mask, and the prediction over it."""
        rows = {str(id_): number for number, id_ in enumerate(self.rows.ids)}
        made = {}
        for id_ in (id_ for ids in shown.values() for id_ in ids):
            number = rows[id_]
            mask, window, size = self.mask_of(number)
            said = segmentation.classify(patches.scores(self.tokens[number]), window, size, whole=True)
            pictures = segmentation.small(images.picture_of(self._image(number)), mask, said)
            made[id_] = [Look(picture=jpeg(pixels)) for pixels in pictures]
        return made

    @property
    def numbers(self) -> np.ndarray:
        """The rows of the reported images."""
        return np.flatnonzero(self.rows.split == self.reported)

    def targets(self, folder: Path, *, force: bool) -> dict[str, segmentation.Files]:
        """Where the mask and the overlay of each reported image go; see `featurepipe.segmentation.places`."""
        return segmentation.places(folder, map(str, self.rows.ids[self.numbers]), self.inputs(), force=force)

    def inputs(self) -> list[Path]:
        """The files that are read: masks, and images that are files."""
        found = list(self.masks.places.values())
        if self.source.kind == "files":
            found += [Path(self.source.root) / place for place in self._places.values()]
        return found

    def paint(self, patches: Patches, targets: dict[str, segmentation.Files], listener: Listener) -> None:
        """Write the predicted mask of each reported image, and the image with its colours over it."""
        painter = self.painter(patches)
        with listener.progress("drawing", len(targets)) as advance:
            for number in self.numbers.tolist() if targets else ():
                painter.paint(self.tokens[number], self._image(number), targets[str(self.rows.ids[number])])
                advance(1)

    def painter(self, patches: Patches) -> segmentation.Painter:
        """What makes masks of images."""
        return segmentation.Painter(patches, self.entry.spec["transform"], *self.masks.written)


class _Held(Sequence[np.ndarray]):
    """Shares of classes in the cells of pictures, (R, C, K) each; of most cells only one class has to be kept."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._kept: list[Any] = []

    def append(self, shares: np.ndarray) -> None:
        """Keep those of one more picture."""
        from scipy.sparse import csr_array

        self._kept.append(csr_array(shares.reshape(-1, self.shape[2]).astype(np.float32)))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, number: Any) -> Any:
        return self._kept[number].toarray().astype(np.float64).reshape(self.shape)


class _Colours:
    """The mean colour of each patch, where tokens would be: what can be had without a network."""

    def __init__(self, work: _Work, entry: Entry) -> None:
        self._work, self._grid = work, entry.grid
        self._transform = images.ImageTransform.from_mapping(entry.spec["transform"])
        self._kept: dict[int, np.ndarray] = {}

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Colours of 0…1, (b, h, w, 3)."""
        return np.stack([self._of(number) for number in np.atleast_1d(numbers).tolist()])

    def _of(self, number: int) -> np.ndarray:
        if number not in self._kept:
            pixels = images.decode(self._work._image(number), self._transform).transpose(1, 2, 0) / 255  # (H, W, 3)
            rows, columns = (
                np.array_split(np.arange(n), k) for n, k in zip(pixels.shape, self._grid or (1, 1), strict=False)
            )
            self._kept[number] = np.array([[pixels[np.ix_(r, c)].mean((0, 1)) for c in columns] for r in rows])
        return self._kept[number]


def _split(rows: FeatureMatrix, seed: int) -> FeatureMatrix:
    """Rows with splits: those that are given, or made by content."""
    split = split_by_content(rows, seed)[0] if is_unsplit(rows) else rows.split
    if None in set(split.tolist()):
        raise SegmentationError("some images have a split and others have none; give every image one, or none")
    if not (split == "train").any() or not (split != "train").any():
        raise SegmentationError("segmentation needs images to learn from and others to report; give more masks")
    return replace(rows, split=split)


def _fit(
    tokens: Any,
    learned: np.ndarray,
    held: _Held,
    work: _Work,
    kind: str,
    epochs: int,
    seed: int,
    listener: Listener,
) -> Choice:
    def read(numbers: np.ndarray) -> np.ndarray:
        return tokens[learned[numbers]]

    if kind == LOGISTIC:
        with listener.progress("training", epochs * len(held)) as advance:
            made = segmentation.logistic(read, held, epochs=epochs, seed=seed, progress=advance)
        return Choice(LOGISTIC, None, made, [])
    _, units = np.unique(work.rows.units[learned], return_inverse=True)
    order = np.random.default_rng(seed).permutation(units.max() + 1)
    folds = order[units] % FOLDS
    kinds = tuple(segmentation.CLOSED) if kind == AUTO else (kind,)
    with listener.progress("fitting", 2 * len(held)) as advance:
        return segmentation.choose(read, held, folds, kinds, advance)


def _model(work: _Work, made: Choice, result: dict[str, Any], seed: int) -> models.Model:
    entry = work.entry
    origin = entry.provenance["source"]
    backbone = {"name": entry.name, "fingerprint": entry.fingerprint, "spec": entry.spec, "source": dict(origin)}
    estimator = probes.PatchClassifier(np.array(work.masks.names), made.patches.coef, made.patches.intercept)
    learned = work.rows.take(work.rows.split != work.reported)
    chosen = f"{made.folds}-fold cross-validation on all that is not reported"
    if not made.folds:
        chosen = "nothing: published settings" if made.kind == LOGISTIC else "nothing: a single image to learn from"
    card = Card(
        data=Data(root=str(work.store.source_root), samples=len(work.rows), classes=len(work.masks.names)),
        splits=Splits(**result["splits"]),
        split_source="given or made by content",
        selection=Selection.made(chosen, made.strength, []),
        train=None,
        val=None,
        test=None,
        baselines={},
        few_shot=[],
        segmentation=Segmented.of_json(
            {key: result[key] for key in SAID if result[key] is not None or key == "strength"} | _values(work.masks)
        ),
        licence=models.licence_of(origin, entry.spec),
        seed=seed,
        notes=work.notes,
        versions=versions(),
        created=now(),
    )
    seen = np.unique(models.row_keys(learned).ravel())
    return models.Model(probes.SEGMENTATION, estimator, 1.0, backbone, seen, card)


def _how_made(entry: Entry, seed: int) -> dict[str, str]:
    """What a page says of how a model was made."""
    return {
        "precision": entry.spec["precision"],
        "transform": ", ".join(f"{key} {json.dumps(value)}" for key, value in entry.spec["transform"].items()),
        "fingerprint": entry.fingerprint,
        "seed": str(seed),
        "versions": ", ".join(f"{library} {version}" for library, version in versions().items()),
        "created": now(),
    }


def _values(masks: Masks) -> dict[str, Any]:
    """What pixels of masks mean, for those who write some."""
    values, ignored = masks.written
    return {"mask_values": values.tolist(), **({} if ignored is None else {"ignored": ignored})}


FIGURES = ("n", "miou", "miou_interval", "pixel_accuracy", "pixel_accuracy_interval", "per_class")
SAID = (
    *("kind", "strength", "evaluated_on", "n", "miou", "miou_interval", "pixel_accuracy", "pixel_accuracy_interval"),
    *("per_class", "covered", "path"),
)  # of the result, in the card
