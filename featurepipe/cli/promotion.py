"""Commands about promotion: is it worth it, and how deep."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.flags import flag, flags
from featurepipe.cli.help import Command, options
from featurepipe.cli.options import DEVICE, FORCE, HELD, MEMORY, SEED, TOLD, TRUST, WEIGHTS, WORKERS
from featurepipe.cli.process import INTERRUPTED
from featurepipe.cli.promotion_texts import advise_text, finetune_text
from featurepipe.cli.terminal import Talk, load_stages, show
from featurepipe.vocabulary import PromotionOptions, TuneOptions

RECIPE = flags(TuneOptions, first=("tune", "epochs", "lr"), without=("seed",))
DETAILS = options(
    flags(TuneOptions, PromotionOptions, panel="Start"),
    flags(TuneOptions, panel="Optimisation", first=("optimizer", "layer_decay", "warmup")),
    flags(TuneOptions, panel="Regularisation"),
    flags(TuneOptions, PromotionOptions, panel="Compute", first=("precision",), last=("cache", "views")),
)


@click.command(cls=Command)
@click.argument("store", type=click.Path())
@HELD
@SEED
@click.option(
    "--attentive",
    type=click.Path(),
    metavar="MODEL",
    help="Model file of an attentive probe on the same images, to compare the linear probe with.  [default: the one "
    "next to the tokens in the store]",
)
@options(click.option("--why", is_flag=True, help="Also print the reasons and numbers behind the advice."), TOLD)
def advise(store: str, why: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Recommend what to do next: keep the probe, fine-tune, or label more images.

    Nothing is trained. The advice uses only the embeddings in the store, and never the images on which probe reports
    accuracy. It is more reliable if the store also holds earlier layers (extract --layers stages) and the baseline of
    raw pixels (which probe adds).

    \b
      $ featurepipe extract data/digits -s digits.store --layers stages
      $ featurepipe probe digits.store --kind ridge
      $ featurepipe advise digits.store
      $ featurepipe advise digits.store --why
      $ featurepipe advise digits.store --json
    """
    result = load_stages(quiet).advise(store, listener=Talk(quiet), **given)
    show(as_json, result, lambda found: advise_text(found, why=why))


@click.command(cls=Command)
@click.argument("source", type=click.Path())
@click.argument("data", type=click.Path(), required=False)
@click.option(
    "-o", "--output", type=click.Path(), help="Model file to write.  [default: in the backbone's folder of the store]"
)
@flag(PromotionOptions, "backbone")
@WEIGHTS
@TRUST
@RECIPE
@DEVICE
@SEED
@DETAILS
@WORKERS
@MEMORY
@FORCE
@TOLD
def finetune(source: str, data: str | None, output: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Fine-tune the network, starting from the probe. Keep it only if it is expected to be more accurate.

    SOURCE is a store or a model file. DATA holds the images to learn from: a folder or a table. With a model
    file, DATA is required and can be a store too. With a store, its own images are the default.

    The tuned network is kept if its expected accuracy on new images is more than one percentage point above the
    probe's. This is estimated from held-out images, and from the gains that were measured on other data sets when
    featurepipe was made. Otherwise the file keeps the probe.

    After an interruption, run the same command again to continue. To use several GPUs (not tested yet):

    \b
      $ torchrun --nproc-per-node N --no-python featurepipe finetune …

    Examples on the digits:

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe finetune digits.store --tune last-1 --augment crop --epochs 2
    """
    given = {name: value for name, value in given.items() if value is not None}
    result = load_stages(quiet).finetune(source, data, output, listener=Talk(quiet), **given)
    if "model" in result:  # of several processes, the first one talks
        show(as_json, result, finetune_text)
    if was_interrupted(result.get("finetuning", result)):
        raise click.exceptions.Exit(INTERRUPTED)


def was_interrupted(told: dict[str, Any]) -> bool:
    """Whether Ctrl-C ended a tuning, or the same on all images or from scratch."""
    return any((one or {}).get("stopped") == "interrupted" for one in (told, told.get("refit"), told.get("scratch")))
