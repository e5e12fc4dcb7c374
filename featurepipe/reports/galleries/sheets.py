"""The contact sheet: samples that say most about a model, as pictures, and the samples behind a cell of the matrix."""

from __future__ import annotations

from collections.abc import Iterable

from featurepipe.reports.galleries.gallery import NONE, SHEET, Gallery
from featurepipe.reports.looks import Look
from featurepipe.reports.markup import Html, join, picture, player, section, surely, tag

CLASSES = 24  # of which the best is shown


def contact_sheet(gallery: Gallery, where: str) -> Html:
    """The most confident mistakes, the least certain, the best of each class."""
    parts = sheets(gallery)
    wrong, more = len(gallery.mistakes), len(gallery.mistakes) - len(parts["mistakes"])
    word = f"{gallery.medium}s"
    mistakes = tag("p", f"None: every one of the {gallery.reported:,} {where} {word} is classified correctly.")
    if wrong:
        said = f"{wrong:,} of {gallery.reported:,} {where} {word} {'is' if wrong == 1 else 'are'} wrong. "
        said += "First those where the model is most sure: hard cases, or wrong labels."
        named = f" {more:,} more are on the map below: colour it by “right or wrong”." if more else ""
        mistakes = join(tag("p", said, named), _sheet(gallery, parts["mistakes"]))
    doubtful = f"The {where} {word} where the model is least sure. Right or wrong, they are worth a second look."
    best = "One typical example of each class: right, and most sure."
    rest = f" Only the {CLASSES} most common classes are shown." if len(gallery.best) > CLASSES else ""
    return section(
        "Look at these first",
        *(tag("p", note, class_="box") for note in gallery.notes),
        tag("h3", "Most confident mistakes"),
        mistakes,
        tag("h3", "Least certain"),
        tag("p", doubtful),
        _sheet(gallery, parts["doubtful"]),
        join(tag("h3", "Best of each class"), tag("p", best, rest), _sheet(gallery, parts["best"]))
        if parts["best"]
        else "",
        "" if gallery.looks else tag("small", _no_looks(gallery)),
    )


def _no_looks(gallery: Gallery) -> str:
    return (
        f"The {gallery.medium}s themselves are not shown: they cannot be read any more, or no room was given to them."
    )


def sheets(gallery: Gallery) -> dict[str, list[int]]:
    """The samples of each part of the contact sheet, each in one part only."""
    mistakes = gallery.mistakes[:SHEET].tolist()
    doubtful = [row for row in gallery.doubtful.tolist() if row not in mistakes]
    best = [row for row in gallery.best[:CLASSES].tolist() if row not in doubtful]
    return {"mistakes": mistakes, "doubtful": doubtful, "best": best}


def _sheet(gallery: Gallery, rows: Iterable[int]) -> Html:
    return tag("div", *(card(gallery, row) for row in rows), class_=f"sheet {gallery.medium}")


def card(gallery: Gallery, row: int) -> Html:
    """A sample: how it looks, what the model says and how sure it is, its label, its path. `page.js` makes the same."""
    truth, guess = int(gallery.truth[row]), gallery.labels[gallery.guess[row]]
    sure = surely(float(gallery.confidence[row]))
    kind = "" if truth == NONE else " right" if truth == gallery.guess[row] else " wrong"
    label = "" if truth in (NONE, gallery.guess[row]) else tag("span", "label ", tag("bdi", gallery.labels[truth]))
    caption = tag(
        "figcaption",
        tag("span", tag("bdi", guess, class_="said"), f" {sure}"),
        label,
        path(gallery.ids[row]),
        similar(gallery, row),
    )
    look = gallery.looks.get(row)
    seen = tag("div", "no picture", class_="none") if look is None else show_look(look, gallery.ids[row])
    return tag("figure", seen, caption, class_=f"card{kind}", data_row=row)


def similar(gallery: Gallery, row: int) -> Html:
    """The training samples nearest to one, behind a line that opens them. `page.js` puts their pictures there."""
    found = gallery.alike.get(row, ())
    if not found:
        return Html()
    lines = [
        tag("li", tag("bdi", _label(gallery, one.row)), f" {one.cosine:.2f} ", path(gallery.ids[one.row]))
        for one in found
    ]
    return tag("details", tag("summary", "more like this"), tag("ol", *lines), class_="alike", data_of=row)


def _label(gallery: Gallery, row: int) -> str:
    return gallery.labels[gallery.truth[row]] if gallery.truth[row] != NONE else "no label"


def path(name: str) -> Html:
    """A path, each part by itself: words that are read from the right would change the order of what is around them."""
    parts = [tag("bdi", part) for part in name.split("/")]
    return tag("span", *(join("/" if number else "", part) for number, part in enumerate(parts)), class_="path")


def show_look(look: Look, name: str) -> Html:
    """How a sample looks: a picture, words, a player."""
    return join(
        picture(f"data:image/jpeg;base64,{look.picture}", name) if look.picture else "",
        tag("blockquote", look.words, dir="auto") if look.words else "",
        player(f"data:audio/mpeg;base64,{look.sound}", name) if look.sound else "",
    )


def top_confusions(gallery: Gallery, most: int) -> list[list[object]]:
    """Rows of a table of the classes most often confused: true class, what it is taken for, and how often."""
    return [
        [gallery.labels[truth], gallery.labels[guess], opener(truth, guess, count)]
        for truth, guess, count in gallery.confusions(most)
    ]


def opener(truth: int, guess: int, count: int) -> Html:
    """How many samples a cell has, as a button that shows them."""
    return tag("button", f"{count:,}", type="button", data_cell=f"{truth},{guess}", title="show them")


def drawer() -> Html:
    """Where the samples of a cell are shown."""
    return tag("div", "", id="cell", role="region", aria_live="polite", aria_label="Samples of a cell", tabindex=-1)
