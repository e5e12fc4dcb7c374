"""Commands that show samples of a store: those nearest to others, and those to label next."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.help import Command, options
from featurepipe.cli.options import COLUMNS, DEVICE, FORCE, HELD, SAFE_CSV, SEED, SPEED, TOLD, TRUST, WEIGHTS
from featurepipe.cli.terminal import Talk, load_stages, show
from featurepipe.vocabulary.names import ORDERS

SHOWN = 10  # samples to label


@click.command(cls=Command)
@click.argument("store", type=click.Path())
@click.argument("queries", nargs=-1, required=True)
@click.option(
    "-n", "--count", type=click.IntRange(1), default=10, show_default=True, help="How many neighbours to list."
)
@HELD
@WEIGHTS
@TRUST
@DEVICE
@COLUMNS
@SPEED
@TOLD
def search(store: str, queries: tuple[str, ...], as_json: bool, quiet: bool, **given: Any) -> None:
    """Find the samples of a store that are most similar to others.

    QUERIES are ids of samples in the store, or files, folders and tables, which are embedded first. Similarity is the
    cosine of the embeddings: 1 is the same direction.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe search digits.store data/digits/test/3/1202.png
      $ featurepipe search digits.store test/3/1202.png -n 3
    """
    result = load_stages(quiet).search(store, queries, listener=Talk(quiet), **given)
    show(as_json, result, search_text)


@click.command(cls=Command)
@click.argument("store", type=click.Path())
@options(
    click.option(
        "--next", "count", type=click.IntRange(1), default=50, show_default=True, help="How many samples to list."
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(),
        help="File to write, FILE.csv, with an empty column label to fill in.  [default: print the first ones]",
    ),
    click.option(
        "--order",
        type=click.Choice(ORDERS),
        help="Which samples come first: typical ones, or those a probe is unsure of.  [default: typical as long as "
        "fewer than two classes are known, then unsure]",
    ),
)
@HELD
@SEED
@SAFE_CSV
@FORCE
@TOLD
def label(store: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """List the samples whose labels would help most.

    The samples without a label are put in order. Samples of the splits val and test are never listed, because what is
    measured on has to be drawn at random.

    \b
      $ featurepipe extract photos/ -s photos.store
      $ featurepipe label photos.store --next 50 -o next.csv
    """
    result = load_stages(quiet).label(store, listener=Talk(quiet), **given)
    show(as_json, result, label_text)


def search_text(result: dict[str, Any]) -> str:
    """The result of `search`: the neighbours of each query."""
    lines = [f"nearest of {result['samples']:,} samples, by {result['backbone']}"]
    for query in result["queries"]:
        lines += ["", query["id"]]
        lines += [f"  {one['similarity']:.3f}  {one['id']}{_in(one)}" for one in query["neighbours"]]
    lines += [f"not read: {id_} ({reason})" for id_, reason in result["rejects"].items()]
    return "\n".join(lines)


def _in(one: dict[str, Any]) -> str:
    return "" if one["label"] is None else f"  ({one['label']})"


def label_text(result: dict[str, Any]) -> str:
    """The result of `label`: the first samples, and where all of them are."""
    why = {
        "typical": "typical samples of parts of the data without labels",
        "unsure": "samples that the probe is unsure of, unlike each other",
    }[result["order"]]
    lines = [f"label next, of {result['unlabelled']:,} without a label: {why}"]
    for one in result["next"][:SHOWN]:
        guess = "" if one["suggested_label"] is None else f"  ({one['suggested_label']}? {one['confidence']:.2f})"
        lines.append(f"  {one['id']}{guess}")
    left = len(result["next"]) - SHOWN
    lines += [f"  … and {left:,} more"] if left > 0 else []
    if result["output"] is not None:
        lines.append(f"list → {result['output']}")
    else:
        lines.append("a table to fill in: the same command with -o next.csv")
    return "\n".join(lines)
