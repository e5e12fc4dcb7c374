"""The commands `push` and `pull`."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.help import Command
from featurepipe.cli.options import FORCE, TOLD
from featurepipe.cli.terminal import Talk, load_stages, show

ENDPOINT = click.option(
    "--endpoint", metavar="URL", help="Address of another hub.  [default: HF_ENDPOINT, or https://huggingface.co]"
)


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.argument("repository", metavar="OWNER/NAME")
@click.option(
    "--public", is_flag=True, help="Let everybody see a repository that is made now.  [default: only you can see it]"
)
@click.option("--message", help="Text of the commit.  [default: the kind of model and its backbone]")
@ENDPOINT
@TOLD
def push(model: str, repository: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Send a model file to the Hugging Face hub.

    It goes to the repository OWNER/NAME as model.safetensors. A repository that is missing is made. A README with the
    figures, the classes and the commands to use the model goes with it. A README that somebody else wrote is kept. No
    image is sent, but the file names the folders of your data and weights. Log in first with hf auth login, or set
    HF_TOKEN.

    \b
      $ featurepipe run photos/ -o photos
      $ featurepipe push photos ann/photos
    """
    show(as_json, load_stages(quiet).push(model, repository, listener=Talk(quiet), **given), push_text)


@click.command(cls=Command)
@click.argument("repository", metavar="OWNER/NAME")
@click.option("-o", "--output", type=click.Path(), required=True, help="Model file to write: FILE.safetensors.")
@ENDPOINT
@FORCE
@TOLD
def pull(repository: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Fetch a model file from the Hugging Face hub.

    Write OWNER/NAME@REVISION for a branch, a tag or a commit. The file is checked before it is written, and nothing in
    it is run. Then predict, evaluate, info and report take it like any other.

    \b
      $ featurepipe pull ann/photos -o photos.safetensors
      $ featurepipe predict photos.safetensors photos/new
    """
    show(as_json, load_stages(quiet).pull(repository, listener=Talk(quiet), **given), pull_text)


def push_text(result: dict[str, Any]) -> str:
    """Where the model is now."""
    return f"{result['model']} → {result['repository']}: {', '.join(result['files'])}\n{result['commit']}"


def pull_text(result: dict[str, Any]) -> str:
    """What has come, and where it is."""
    return f"{result['kind']} of {result['classes']:,} classes on {result['backbone']}\nmodel → {result['model']}"
