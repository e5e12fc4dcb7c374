"""The stage `report`: the page of a model file, with the samples where their store is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featurepipe import models, reports
from featurepipe.errors import FeaturepipeError, ModelFileError, OutputError, ProbeError
from featurepipe.files import check_output, write_text
from featurepipe.listeners import BARS, Listener
from featurepipe.memory import parse_size
from featurepipe.reports.sections import local
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import galleries
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import ReportOptions
from featurepipe.vocabulary.names import PROJECTIONS

DRAWN = "report.html"


@guarded
@presented
@spread(wanted=ReportOptions)
def report(
    model: str | Path,
    output: str | Path | None = None,
    *,
    wanted: ReportOptions,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Write the page of a model file: how good it is, what goes wrong, what to do next, and how it was made.

    With the store that the model was made from, the page also has the most confident mistakes and other samples as
    small pictures, the samples behind each cell of the confusion matrix, a map of the embeddings, and how far
    confidence can be trusted. The page needs no other file and no network, and names no folder above the data's.

    Parameters
    ----------
    model : path
    output : path, optional
        By default next to the model, with the suffix ``.html``; of ``model.safetensors`` it is ``report.html``, as
        `run` calls it.
    wanted
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, report, shown`` (how many samples the page shows), ``missing`` (why there are no samples on the page;
        None where there are).

    Raises
    ------
    ModelFileError
        The file comes from `TransferClassifier.save`, which measures nothing.
    StoreError, ManifestError, ProbeError
        The store that was given is not the model's.
    """
    model = models.locate(model)
    path = Path(output) if output is not None else _page(model)
    how = galleries.Way(_budget(wanted.pictures), _known(wanted.projection))
    check_output(path, "report", reports.is_page, [model], force=force)
    loaded = models.load_of_samples(model)
    if loaded.card.evaluated_on is None:
        raise ModelFileError(f"{model} holds no figures to report; measure it with: featurepipe evaluate")
    gallery, missing = _gallery(model, loaded, wanted.store, how, listener)
    try:
        page = reports.page(loaded, gallery, missing or "")
    except ModelFileError as error:
        raise ModelFileError(f"{model}: {error}") from error
    write_text(path, page)
    shown = 0 if gallery is None else len(gallery.looks)
    return {"model": str(model), "report": str(path), "shown": shown, "missing": missing}


def _gallery(
    model: Path, loaded: models.Model, store: str | Path | None, how: galleries.Way, listener: Listener
) -> tuple[reports.Gallery | None, str | None]:
    """The samples, or why there are none; a store that was asked for has to be there."""
    if store is not None:
        return galleries.gather(model, loaded, Path(store), how, listener), None
    found = galleries.nearby_store(model)
    if found is None:
        return None, "there is no store next to the model file; give it with --store"
    try:
        return galleries.gather(model, loaded, found, how, listener), None
    except FeaturepipeError as error:
        listener.note(f"note: the page has no pictures: {error}")
        return None, local(str(error))


def _budget(size: int | str) -> int:
    """Bytes of pictures."""
    if str(size).strip() == "0":
        return 0
    try:
        found = parse_size(size)
    except ProbeError:
        found = None
    if found is None:
        raise OutputError(f"{size!r} is not a size for the pictures; say 2MB, 500KB, or 0 for none")
    return found


def _known(projection: str) -> str:
    if projection not in PROJECTIONS:
        raise OutputError(f"map {projection!r} is unknown; use {', '.join(PROJECTIONS)}")
    return projection


def _page(model: Path) -> Path:
    """Where a model's page is by default: where `run` has put it, if that made the model."""
    return model.with_name(DRAWN) if model.name == "model.safetensors" else model.with_suffix(".html")
