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
    """Find the samples of a store that are most similar to others, such as a new file.

    QUERIES are ids of samples in the store, or files, folders and tables, which are embedded first. Similarity is the
    cosine of the embeddings: 1 means the same direction.

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
        help="Table to write, FILE.csv: paths as in the data, and an empty column label.  [default: print the first "
        "ones]",
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

    Write their labels into the table of your data and run extract again; no embedding is computed twice. Samples of the
    splits val and test are never listed, because these have to be drawn at random.

    \b
      $ featurepipe extract data/digits/train/7 -s sevens.store
      $ featurepipe label sevens.store --next 20 -o next.csv
    """
    result = load_stages(quiet).label(store, listener=Talk(quiet), **given)
    show(as_json, result, label_text)


def search_text(result: dict[str, Any]) -> str:
    """The result of `search`: the neighbours of each query."""
    lines = [f"most similar of {result['samples']:,} samples, by {result['backbone']} (cosine, sample, label)"]
    for query in result["queries"]:
        lines += ["", query["id"]]
        lines += [f"  {one['similarity']:.3f}  {one['id']}{_in(one)}" for one in query["neighbours"]]
    lines += [f"not read: {id_} ({reason})" for id_, reason in result["rejects"].items()]
    return "\n".join(lines)


def _in(one: dict[str, Any]) -> str:
    return "" if one["label"] is None else f"  ({one['label']})"


def _guess(one: dict[str, Any]) -> str:
    label = one["suggested_label"]
    return "" if label is None else f"  (perhaps {label}, {100 * one['confidence']:.0f} %)"


def label_text(result: dict[str, Any]) -> str:
    """The result of `label`: the first samples, and where all of them are."""
    why = {
        "typical": "typical of parts of the data that have no label yet",
        "unsure": "a probe is unsure of them, and they differ from each other",
    }[result["order"]]
    lines = [f"of {result['unlabelled']:,} samples without a label, label these first ({why}):"]
    for one in result["next"][:SHOWN]:
        lines.append(f"  {one['id']}{_guess(one)}")
    left = len(result["next"]) - SHOWN
    lines += [f"  … and {left:,} more"] if left > 0 else []
    if result["output"] is not None:
        lines.append(f"list → {result['output']}")
    else:
        lines.append("a table to fill in: the same command with -o next.csv")
    return "\n".join(lines)
