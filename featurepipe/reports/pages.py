"""The page of a model file: sections one below the other, each of which says nothing where it has nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from featurepipe.cards import Card, Figures
from featurepipe.models import Model
from featurepipe.reports import answers, labelsets, promotions, sections
from featurepipe.reports.folds import folds as fold_by_fold
from featurepipe.reports.galleries import Gallery, confidences, maps, sheets
from featurepipe.reports.markup import Html, document, section, tag


@dataclass(frozen=True)
class Page:
    """What a section can draw from.

    Attributes
    ----------
    model : Model
    gallery : Gallery or None
        The samples themselves, where the store of their embeddings is at hand.
    missing : str
        Why there is no gallery.
    """

    model: Model
    gallery: Gallery | None = None
    missing: str = ""

    @property
    def card(self) -> Card:
        """What the model file says of itself."""
        return self.model.card

    @property
    def figures(self) -> Figures:
        """Those that count."""
        return self.card.figures

    @property
    def data(self) -> str:
        """What the data set is called."""
        return Path(self.card.data.root).name or self.card.data.root

    @property
    def title(self) -> str:
        """What the page is called."""
        return f"{self.data}: {'fine-tuned network' if self.card.tuned else f'{self.model.kind} probe'}"

    @cached_property
    def root(self) -> Path | None:
        """The folder of the images, where it is still there; None where it is gone."""
        found = Path(self.card.data.root)
        return found if found.is_dir() else None

    @property
    def words(self) -> ModuleType:
        """What draws figures of one class per image, or of sets of labels."""
        return labelsets if self.model.is_multi_label else sections


Section = Callable[[Page], Html]


def headline(page: Page) -> Html:
    """The figure that counts, how sure it is, and of what."""
    return page.words.headline(page.model, page.title, page.data, page.figures)


def answer(page: Page) -> Html:
    """Is it good, what goes wrong, what now."""
    verdict = "" if page.model.is_multi_label else sections.verdict(page.card, page.figures)
    return answers.answer(page.model, verdict, page.figures, page.gallery, sections.medium_of(page.model))


def contact_sheet(page: Page) -> Html:
    """The samples that say most; why there are none where the page was asked for them in vain."""
    if page.gallery is None:
        return section("Look at these first", tag("p", f"No pictures: {page.missing}.")) if page.missing else Html()
    return sheets.contact_sheet(page.gallery, str(page.card.evaluated_on))


def trust(page: Page) -> Html:
    """How far confidence can be trusted."""
    return Html() if page.gallery is None else confidences.trust(page.gallery, str(page.card.evaluated_on))


def embedding_map(page: Page) -> Html:
    """Where the samples lie."""
    return Html() if page.gallery is None else maps.embedding_map(page.gallery)


def layers(page: Page) -> Html:
    """The layers among which one was chosen."""
    return sections.layers(page.card)


def commands(page: Page) -> Html:
    """What makes it again."""
    return answers.commands(page.model, page.gallery)


def warnings(page: Page) -> Html:
    """What the reader has to know first."""
    return sections.warnings(page.model)


def finetuning(page: Page) -> Html:
    """What tuning gained, and its course."""
    return Html() if page.model.is_multi_label else promotions.finetuning(page.card, page.figures)


def baselines(page: Page) -> Html:
    """The figure next to those of trivial predictors."""
    return page.words.baselines(page.card, page.figures)


def folds(page: Page) -> Html:
    """Each fold of a cross-validation by itself."""
    return fold_by_fold(page.card)


def blocks(page: Page) -> Html:
    """Of several backbones: each alone."""
    return Html() if page.model.is_multi_label else sections.blocks(page.card, page.figures)


def few_labels(page: Page) -> Html:
    """Figures with few labels."""
    return Html() if page.model.is_multi_label else sections.few_labels(page.card, page.figures)


def figures(page: Page) -> Html:
    """All figures in a table."""
    return page.words.figures(page.card, page.figures)


def selection(page: Page) -> Html:
    """How the strength was chosen."""
    return page.words.selection(page.model)


def confusion(page: Page) -> Html:
    """Which classes are taken for which."""
    return Html() if page.model.is_multi_label else sections.confusion(page.figures, page.gallery)


def per_class(page: Page) -> Html:
    """Each class, or each label, by itself."""
    if page.model.is_multi_label:
        return labelsets.per_label(page.model, page.figures)
    return sections.per_class(page.figures)


def how_made(page: Page) -> Html:
    """Everything that is needed to make it again."""
    return sections.how_made(page.model)


SECTIONS: list[Section] = [
    headline,
    answer,
    warnings,
    contact_sheet,
    confusion,
    per_class,
    folds,
    embedding_map,
    trust,
    finetuning,
    baselines,
    blocks,
    few_labels,
    figures,
    layers,
    selection,
    commands,
    how_made,
]


def draw(model: Model, gallery: Gallery | None = None, missing: str = "") -> str:
    """A whole HTML document."""
    page = Page(model, gallery, missing)
    data = [] if gallery is None else [maps.data_of(gallery)]
    return document(page.title, *(draw_one(page) for draw_one in SECTIONS), *data, script=True)
