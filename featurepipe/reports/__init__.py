"""Reports: one self-contained HTML page of a model file, drawn from the model's own card, or of a comparison.

No network and no script: the style is inline and the drawings are inline SVG. What comes from outside (class names,
paths, notes) cannot become markup, because `tag` escapes every string that is not already `Html`.
"""

from __future__ import annotations

from pathlib import Path

from featurepipe import models
from featurepipe.errors import ModelFileError
from featurepipe.reports import labelsets, sections, tuning
from featurepipe.reports.comparisons import comparison_page
from featurepipe.reports.intervals import bootstrap, wilson
from featurepipe.reports.markup import document, is_page

__all__ = ["bootstrap", "comparison_page", "is_page", "page", "wilson"]


def page(model: models.Model) -> str:
    """Draw a model's page.

    Parameters
    ----------
    model : Model
        Its card, backbone, kind and classes are read; nothing is computed again.

    Returns
    -------
    str
        A whole HTML document that needs no other file.

    Raises
    ------
    ModelFileError
        The card has no figures: `featurepipe.estimators.TransferClassifier` saves such files. Or they do not fit
        together.
    """
    if "evaluated_on" not in model.card:
        raise ModelFileError("the model file holds no figures to report; one that featurepipe probe writes does")
    try:
        return _drawn(model)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of a card by other hands
        why = f"{type(error).__name__}: {error}"
        raise ModelFileError(
            f"the card's figures are incomplete or do not fit together ({why}); make the file again"
        ) from error


def _drawn(model: models.Model) -> str:
    card = model.card
    figures = card[card["evaluated_on"]]
    data = Path(card["data"]["root"]).name or card["data"]["root"]
    title = f"{data}: {'fine-tuned network' if sections.is_tuned(card) else f'{model.kind} probe'}"
    if model.is_multi_label:
        return document(
            title,
            labelsets.headline(model, title, data, figures),
            sections.warnings(model),
            labelsets.baselines(card, figures),
            labelsets.figures(card, figures),
            labelsets.selection(model),
            labelsets.per_label(model, figures),
            sections.how_made(model),
        )
    return document(
        title,
        sections.headline(model, title, data, figures),
        sections.warnings(model),
        tuning.finetuning(card, figures),
        sections.baselines(card, figures),
        sections.few_labels(card, figures),
        sections.figures(card, figures),
        sections.selection(model),
        sections.confusion(figures),
        sections.per_class(figures),
        sections.how_made(model),
    )
