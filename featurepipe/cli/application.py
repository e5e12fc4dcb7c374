"""Commands that use a model file: on images, or to show what it says about itself."""

from __future__ import annotations

import sys
from typing import Any

import click

from featurepipe.characters import shown_all
from featurepipe.cli import texts
from featurepipe.cli.flags import flags
from featurepipe.cli.help import Command
from featurepipe.cli.options import COLUMNS, DEVICE, FORCE, OUTPUT, SAFE_CSV, SPEED, TOLD, TRUST, WEIGHTS
from featurepipe.cli.terminal import Legible, Talk, exit_strict, load_stages, say, show
from featurepipe.vocabulary import AnswerOptions, ReportOptions

STDOUT = "-"
SHOWN = 10  # pictures that are listed


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.argument("data", type=click.Path())
@click.option(
    "--split",
    type=click.Choice(["auto", "train", "val", "test", "all"]),
    default="auto",
    show_default=True,
    help="Images to measure on. auto takes test if there is one, otherwise val, otherwise all images that the model "
    "has not seen.",
)
@WEIGHTS
@TRUST
@DEVICE
@COLUMNS
@SPEED
@OUTPUT
def evaluate(model: str, data: str, strict: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Measure a model file on labelled images: a folder, a table, or a store.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe evaluate digits data/digits
    """
    result = load_stages(quiet).evaluate(model, data, listener=Talk(quiet), **given)
    show(as_json, result, texts.evaluate_text)
    exit_strict(strict, result)


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.argument("data", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(allow_dash=True),
    help="File to write: FILE.csv, FILE.jsonl, FILE.parquet, or '-': CSV on stdout.  [default: print the answers]",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="With -o, also write a column for each class. Multi-label models always write them.",
)
@WEIGHTS
@TRUST
@DEVICE
@flags(AnswerOptions, panel="Answers")
@COLUMNS
@SPEED
@SAFE_CSV
@FORCE
@OUTPUT
def predict(
    model: str, data: tuple[str, ...], output: str | None, strict: bool, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Classify images with a model file.

    DATA is one or more images, folders or tables. If they have labels, the labels are shown next to the answers.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe predict digits data/digits/test/3/*.png
      $ featurepipe predict digits data/digits/test -o predictions.csv
      $ featurepipe predict digits data/digits/test --threshold auto
      $ featurepipe predict digits data/digits/test --copy-to sorted
    """
    if output == STDOUT and as_json:
        raise click.UsageError("-o - and --json both write to stdout; drop one of them")
    target = Legible.where_seen(sys.stdout) if output == STDOUT else output
    result = load_stages(quiet).predict(model, data, target, listener=Talk(quiet), **given)
    if output != STDOUT:
        show(as_json, result, texts.predict_text)
    elif not quiet:
        say(texts.predict_text(shown_all(result)))
    exit_strict(strict, result)


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="HTML file to write.  [default: next to the model file]")
@flags(ReportOptions, panel="Report")
@FORCE
@TOLD
def report(model: str, output: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Write the HTML report of a model file: how good it is, what goes wrong, what to do next, how it was made.

    The report is one file that works offline. If it can read the store of the embeddings, it shows the samples,
    too: the most confident mistakes, the least certain, the samples behind each cell of the confusion matrix, and a
    map.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe report digits -o digits.html
    """
    show(as_json, load_stages(quiet).report(model, output, listener=Talk(quiet), **given), report_text)


def report_text(result: dict[str, Any]) -> str:
    """The result of `report`."""
    said = f" (figures only: {result['missing']})" if result["missing"] else ""
    return f"report → {result['report']}{said}"


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.argument("data", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="Folder for the pictures, one for each image.")
@click.option("--label", metavar="CLASS", help="Class to explain.  [default: the one that the model answers]")
@WEIGHTS
@TRUST
@DEVICE
@COLUMNS
@FORCE
@TOLD
def explain(model: str, data: tuple[str, ...], output: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Draw which part of an image speaks for its class.

    The pictures show in grey what the network sees, and in warm colours the places that raise the score of the class.
    DATA is one or more images, folders or tables. The model needs weights for its classes, as all probes except
    centroid, knn and approximate-knn have, and a network that torch runs.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe explain digits data/digits/test/3/1202.png -o maps
      $ featurepipe explain digits data/digits/test/3 -o fives --label 5
    """
    result = load_stages(quiet).explain(model, data, output, listener=Talk(quiet), **given)
    show(as_json, result, explain_text)


def explain_text(result: dict[str, Any]) -> str:
    """The result of `explain`: the first pictures, and where all of them are."""
    lines = [
        f"{one['of']}  (answer {one['label']}, {100 * one['confidence']:.1f} %)  {one['map']}"
        for one in result["images"][:SHOWN]
    ]
    left = len(result["images"]) - SHOWN
    lines += [f"… and {left:,} more"] if left > 0 else []
    count = result["explained"]
    lines.append(f"{count:,} picture{'' if count == 1 else 's'} → {result['output']}")
    return "\n".join(lines + [f"not read: {id_} ({reason})" for id_, reason in result["rejects"].items()])
