"""The command `pretrain`."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.flags import flags
from featurepipe.cli.help import Command, options
from featurepipe.cli.options import COLUMNS, FORCE, GROUPING, TOLD, WORKERS
from featurepipe.cli.process import INTERRUPTED
from featurepipe.cli.terminal import Talk, load_stages, show
from featurepipe.cli.texts import percent
from featurepipe.vocabulary import PretrainOptions

PANELS = (None, "Backbone", "Input transform", "Views", "Training", "Teacher", "Sound", "Output")
MEMORY = options(
    click.option(
        "--memory",
        metavar="SIZE",
        help="Memory for decoded images, such as 8GB or 500MB. More than that is kept on disk.  [default: half of what "
        "is available]",
    ),
    group="Compute",
)


@click.command(cls=Command)
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="Backbone file to write: FILE.safetensors.")
@options(*(flags(PretrainOptions, panel=panel) for panel in PANELS))
@COLUMNS
@GROUPING
@WORKERS
@MEMORY
@FORCE
@TOLD
def pretrain(data: str, output: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Train a backbone of your own, with or without labels.

    DATA is a folder of images, an archive or a table; featurepipe --help describes them. Only the objective supervised
    needs labels. If there are labels, a kNN and a linear probe show how good the embeddings become. Images of test are
    never used. The sound objective needs videos with sound, or a table whose column sound names a sound file for each
    image.

    After an interruption, run the same command again with --resume. To use several GPUs (not tested yet):

    \b
      $ torchrun --nproc-per-node N --no-python featurepipe pretrain …

    Examples on the digits:

    \b
      $ featurepipe pretrain data/digits -o mine.safetensors --epochs 2
      $ featurepipe extract data/digits -s digits.store -b mine.safetensors
    """
    given = {name: value for name, value in given.items() if value is not None}
    result = load_stages(quiet).pretrain(data, output, listener=Talk(quiet), **given)
    if "backbone" in result:  # of several processes, the first one talks
        show(as_json, result, pretrain_text)
    if result["stopped"] == "interrupted":
        raise click.exceptions.Exit(INTERRUPTED)


def pretrain_text(result: dict[str, Any]) -> str:
    """The result of `pretrain`: what was trained for how long, what it is worth, and how it is used."""
    card = result["card"]
    speed = f", {result['images_per_second']:,.0f} images/s" if result["images_per_second"] else ""
    lines = [
        f"{result['objective']}: {card['epochs']} of {card['planned_epochs']} "
        f"epoch{'s' * (card['planned_epochs'] != 1)} of {card['images_per_epoch']:,} images{speed}"
    ]
    measured = [row for row in result["curve"] if "knn" in row]
    if measured:
        first, last = measured[0], measured[-1]
        lines += [
            f"  kNN {percent(first['knn'])} → {percent(last['knn'])}, linear probe {percent(first['linear'])} → "
            f"{percent(last['linear'])}, on {last['n']} held-back images"
        ]
    if result["stopped"] == "interrupted":
        lines += ["  interrupted; the file holds the best epoch so far; run the same command with --resume to go on"]
    return "\n".join([*lines, f"page → {result['page']}", f"backbone → {result['backbone']}"])
