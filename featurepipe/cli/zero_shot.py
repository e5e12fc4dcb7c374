"""The command `zeroshot`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from featurepipe.cli.flags import flag
from featurepipe.cli.help import Command, options
from featurepipe.cli.options import DEVICE, FORCE, SEED, TOLD, TRUST
from featurepipe.cli.terminal import Talk, load_stages, show
from featurepipe.vocabulary import BackboneOptions

SHOWN = 8  # classes


@click.command(cls=Command)
@click.argument("classes")
@click.option("-o", "--output", type=click.Path(), required=True, help="Model file to write: FILE.safetensors.")
@options(
    click.option(
        "-b",
        "--backbone",
        required=True,
        help="Network with a text tower: open_clip:ARCH/TAG, or transformers:FOLDER of a SigLIP model.",
    ),
    click.option(
        "--template",
        "templates",
        multiple=True,
        help="Prompt for a class, with {} where its name goes. Give several to use their mean.  [default: a photo of "
        "a {}.]",
    ),
    flag(BackboneOptions, "weights"),
    flag(BackboneOptions, "random_weights"),
    flag(BackboneOptions, "precision"),
    group="Backbone",
)
@TRUST
@DEVICE
@SEED
@FORCE
@TOLD
def zeroshot(classes: str, as_json: bool, quiet: bool, templates: tuple[str, ...], **given: Any) -> None:
    """Make a model from class names alone, without images.

    CLASSES are names separated by commas, or a text file with one name in each line. Write LABEL=WORDS where the words
    for a class differ from its label, such as n02123=tabby cat. The network must have a text tower. predict and
    evaluate take the model file like any other.

    \b
      $ featurepipe zeroshot cat,dog -o pets.safetensors -b open_clip:RN50/openai
      $ featurepipe predict pets.safetensors photos/
    """
    given = {name: value for name, value in given.items() if value is not None}
    if templates:
        given["templates"] = templates
    show(as_json, load_stages(quiet).zeroshot(classes, listener=Talk(quiet), **given), zeroshot_text)


def zeroshot_text(result: dict[str, Any]) -> str:
    """The result of `zeroshot`: the classes, and where the model is."""
    names = list(result["classes"])
    shown = ", ".join(names[:SHOWN]) + (f", … ({len(names)} in all)" if len(names) > SHOWN else "")
    count = len(result["templates"])
    prompts = f"{count} prompt{'s' * (count != 1)} of each"
    said = f"{len(names)} classes on {result['backbone']}, {prompts}: {shown}\nmodel → {result['model']}"
    return f"{said}\nclassify images: featurepipe predict {shlex.quote(result['model'])} PHOTOS"
