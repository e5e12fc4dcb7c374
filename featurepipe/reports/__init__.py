"""Reports: one self-contained HTML page of a model file, from the model's own card, of a comparison, or of an audit.

No network and no script: the style is inline and the drawings are inline SVG. What comes from outside (class names,
paths, notes) cannot become markup, because `tag` escapes every string that is not already `Html`.
"""

from __future__ import annotations

from featurepipe import models
from featurepipe.errors import ModelFileError
from featurepipe.reports.audits import audit_page, pictured
from featurepipe.reports.comparisons import comparison_page
from featurepipe.reports.markup import is_page
from featurepipe.reports.pages import SECTIONS, Page, draw

__all__ = ["SECTIONS", "Page", "audit_page", "comparison_page", "is_page", "page", "pictured"]


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
    if model.card.evaluated_on is None:
        raise ModelFileError("the model file holds no figures to report; one that featurepipe probe writes does")
    try:
        return draw(model)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of a card by other hands
        why = f"{type(error).__name__}: {error}"
        raise ModelFileError(
            f"the card's figures are incomplete or do not fit together ({why}); make the file again"
        ) from error
