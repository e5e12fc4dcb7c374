"""Commands about promotion: is it worth it, and how deep."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.help import Command, options
from featurepipe.cli.options import DEVICE, FORCE, HELD, MEMORY, SEED, TOLD, TRUST, WEIGHTS, WORKERS, parse_depth
from featurepipe.cli.process import INTERRUPTED
from featurepipe.cli.promotion_texts import advise_text, finetune_text
from featurepipe.cli.terminal import Talk, load_stages, show

RECIPE = options(
    click.option(
        "--tune",
        default="all",
        show_default=True,
        callback=parse_depth,
        help="Part of the network to tune: head, last-N (blocks), stageK+ or all; auto follows featurepipe advise.",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1),
        help="Number of passes over the images.  [default: 20, or as many as 500 steps take, at most 100]",
    ),
    click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        help="Peak learning rate.  [default: 3e-3 with adamw, 3e-2 with sgd, for 256 images per step; lower for fewer]",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Number of images per step."
    ),
    click.option(
        "--augment",
        type=click.Choice(["standard", "crop", "none"]),
        default="standard",
        show_default=True,
        help="How training images are varied. standard crops and mirrors. crop does not mirror: choose it for letters, "
        "digits, and whatever has a left and a right.",
    ),
)
DETAILS = options(
    options(
        click.option(
            "--head",
            type=click.Choice(["probe", "random"]),
            default="probe",
            show_default=True,
            help="What the head starts from: the probe, or random weights.",
        ),
        click.option(
            "--head-epochs",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Epochs that train the head alone before the network.",
        ),
        click.option(
            "--refit/--no-refit",
            default=True,
            show_default=True,
            help="Whether to train a kept network once more, this time also on the held-back images.",
        ),
        click.option(
            "--from-scratch", is_flag=True, help="Also train the same network from random weights, for comparison."
        ),
        group="Start",
    ),
    options(
        click.option(
            "--optimizer",
            type=click.Choice(["adamw", "sgd"]),
            default="adamw",
            show_default=True,
            help="Optimizer to train with; sgd uses momentum.",
        ),
        click.option(
            "--layer-decay",
            type=click.FloatRange(0, 1, min_open=True),
            help="Factor that lowers the learning rate from each layer to the one before it.  [default: rates fall "
            "evenly to a tenth in the first layer]",
        ),
        click.option(
            "--warmup",
            type=click.FloatRange(0, 1, max_open=True),
            help="Share of the steps during which the learning rate rises to its peak.  [default: 0.1]",
        ),
        click.option(
            "--weight-decay",
            type=click.FloatRange(0),
            help="Weight decay of everything except biases and norms.  [default: 0.05 with adamw, 0 with sgd]",
        ),
        click.option(
            "--clip-grad",
            type=click.FloatRange(0),
            help="Largest norm of the gradients; larger ones are scaled down. 0 sets no limit.  [default: 1]",
        ),
        click.option(
            "--patience",
            type=click.IntRange(0),
            help="Stop after this many epochs without improvement and keep the best epoch. 0 trains all epochs and "
            "keeps the last.  [default: 0]",
        ),
        group="Optimisation",
    ),
    options(
        click.option(
            "--label-smoothing",
            type=click.FloatRange(0, 1, max_open=True),
            help="Share of each label that is spread over all classes.  [default: 0, none]",
        ),
        click.option(
            "--mixup",
            type=click.FloatRange(0),
            help="Mix pairs of images, in shares drawn from a Beta distribution with this alpha.  [default: 0, none]",
        ),
        click.option(
            "--ema",
            type=click.FloatRange(0, 1, max_open=True),
            help="Average the weights over the steps with this decay.  [default: none]",
        ),
        click.option(
            "--l2-sp", type=click.FloatRange(0), help="Strength of the pull back to the starting weights.  [default: 0]"
        ),
        click.option(
            "--batch-norm",
            type=click.Choice(["eval", "train"]),
            default="eval",
            show_default=True,
            help="Statistics that batch norms use: eval keeps those of the pretraining, train follows the batches.",
        ),
        click.option(
            "--class-weight",
            type=click.Choice(["balanced"]),
            help="Give every class the same weight, however many images it has.",
        ),
        group="Regularisation",
    ),
    options(
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            show_default=True,
            help="Number format of the training forward pass.",
        ),
        click.option(
            "--accumulate",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Number of pieces that each batch is computed in. More pieces need less memory.",
        ),
        click.option(
            "--checkpointing",
            is_flag=True,
            help="Save memory: compute activations again in the backward pass instead of keeping them.",
        ),
        click.option(
            "--cache",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="Whether to compute the activations of the frozen layers once and keep them on disk.",
        ),
        click.option(
            "--views",
            type=click.IntRange(1),
            help="Number of augmented views of each image in the cache of activations.  [default: 4]",
        ),
        group="Compute",
    ),
)


@click.command(cls=Command)
@click.argument("store", type=click.Path())
@HELD
@SEED
@options(click.option("--why", is_flag=True, help="Also print the reasons and figures behind the advice."), TOLD)
def advise(store: str, why: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Recommend what to do next: keep the probe, fine-tune, or label more images.

    Nothing is trained. The advice uses only the embeddings in the store, and never the split that probe reports.
    It is better informed if the store holds all stages and raw pixels: run extract --layers stages, then probe.

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
@click.option("-b", "--backbone", help="Backbone to use, if the store holds several.")
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
    """Fine-tune the network, starting from the probe, and keep it if it should beat the probe.

    SOURCE is a store or a model file. DATA is the images to learn from: a folder or a table, or with a model file a
    store. If you leave DATA out, a store's own images are used.

    The tuned network is kept if its expected accuracy on new images is more than one percentage point above the
    probe's. Held-out images, and what tuning gained on other data, decide that. Otherwise the file keeps the probe.

    After an interruption, run the same command again to go on. On several GPUs:

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
