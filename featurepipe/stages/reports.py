"""The stage `report`: the page of a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featurepipe import models, reports
from featurepipe.errors import ModelFileError
from featurepipe.files import check_output, write_text
from featurepipe.surroundings import guarded

DRAWN = "report.html"


@guarded
def report(model: str | Path, output: str | Path | None = None, *, force: bool = False) -> dict[str, Any]:
    """Write the page of a model file: what it was trained on, how good it is, and how it compares with baselines.

    Parameters
    ----------
    model : path
    output : path, optional
        By default next to the model, with the suffix ``.html``; of ``model.safetensors`` it is ``report.html``, as
        `run` calls it.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.

    Returns
    -------
    dict
        ``model, report``.

    Raises
    ------
    ModelFileError
        The file comes from `TransferClassifier.save`, which measures nothing.
    """
    model = models.locate(model)
    path = Path(output) if output is not None else _page(model)
    check_output(path, "report", reports.is_page, [model], force=force)
    loaded = models.load(model)
    if loaded.card.evaluated_on is None:
        raise ModelFileError(f"{model} holds no figures to report; measure it with: featurepipe evaluate")
    try:
        page = reports.page(loaded)
    except ModelFileError as error:
        raise ModelFileError(f"{model}: {error}") from error
    write_text(path, page)
    return {"model": str(model), "report": str(path)}


def _page(model: Path) -> Path:
    """Where a model's page is by default: where `run` has put it, if that made the model."""
    return model.with_name(DRAWN) if model.name == "model.safetensors" else model.with_suffix(".html")
