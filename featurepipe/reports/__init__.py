"""Reports: one self-contained HTML page of a model file, from the model's own card, of a comparison, an audit or a
segmentation.

A page loads nothing: styles, drawings and pictures are in it, and so is its one script, which the page's policy names
by its digest. What comes from outside (class names, paths, notes) cannot become markup, because `tag` escapes every
string that is not already `Html`, nor code, because the script only ever sets texts.
"""

from __future__ import annotations

from featurepipe import models
from featurepipe.errors import ModelFileError
from featurepipe.reports.audits import audit_page, pictured
from featurepipe.reports.comparisons import comparison_page
from featurepipe.reports.galleries import Gallery
from featurepipe.reports.markup import is_page
from featurepipe.reports.pages import SECTIONS, Page, draw
from featurepipe.reports.segmentations import exemplars, segmentation_page

__all__ = [
    "SECTIONS",
    "Gallery",
    "Page",
    "audit_page",
    "comparison_page",
    "exemplars",
    "is_page",
    "page",
    "pictured",
    "segmentation_page",
]


def page(model: models.Model, gallery: Gallery | None = None, missing: str = "") -> str:
    """Draw a model's page.

    Parameters
    ----------
    model : Model
        Its card, backbone, kind and classes are read; nothing is computed again.
    gallery : Gallery, optional
        The samples themselves.
    missing : str
        Why there is no gallery, where the page shall say it.

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
        return draw(model, gallery, missing)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of a card by other hands
        why = f"{type(error).__name__}: {error}"
        raise ModelFileError(
            f"the card's figures are incomplete or do not fit together ({why}); make the file again"
        ) from error
