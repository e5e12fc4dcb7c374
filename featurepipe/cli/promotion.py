"""Commands about promotion: is it worth it, and how deep."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.options import AS_JSON, DEVICE, HELD, MEMORY, SEED, WEIGHTS, WORKERS, options, parse_depth
from featurepipe.cli.promotion_texts import advise_text, finetune_text
from featurepipe.cli.terminal import INTERRUPTED, Talk, show

RECIPE = options(
    click.option(
        "--tune",
        default="all",
        show_default=True,
        callback=parse_depth,
        help="head, last-N blocks, stageK+, all; auto: see advise.",
    ),
    click.option(
        "--epochs", type=click.IntRange(1), help="Passes over the images.  [default: 20, or 500 steps, at most 100]"
    ),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Highest one.  [default: by batch size]"),
    click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images per step."),
    click.option(
        "--augment",
        type=click.Choice(["standard", "crop", "none"]),
        default="standard",
        show_default=True,
        help="standard crops and mirrors; crop does not mirror: for letters, digits, and what has a left and a right.",
    ),
    click.option("--head", type=click.Choice(["probe", "random"]), default="probe", show_default=True, help="Start."),
    click.option(
        "--head-epochs", type=click.IntRange(0), default=0, show_default=True, help="Of the head alone, first."
    ),
    click.option(
        "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True, help="sgd has momentum."
    ),
    click.option(
        "--layer-decay",
        type=click.FloatRange(0, 1, min_open=True),
        help="Of learning rates, layer by layer.  [default: 0.75]",
    ),
    click.option(
        "--weight-decay",
        type=click.FloatRange(0),
        help="Not of biases and norms.  [default: 0.05 with adamw, 0 with sgd]",
    ),
    click.option("--warmup", type=click.FloatRange(0, 1, max_open=True), help="Share of the steps.  [default: 0.1]"),
    click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), help="Share of it.  [default: 0]"),
    click.option("--mixup", type=click.FloatRange(0), help="Alpha of its Beta distribution.  [default: 0, none]"),
    click.option(
        "--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay of averaged weights.  [default: none]"
    ),
    click.option("--l2-sp", type=click.FloatRange(0), help="Pull to the starting weights.  [default: 0]"),
    click.option("--clip-grad", type=click.FloatRange(0), help="Largest norm of the gradient; 0 is any.  [default: 1]"),
    click.option(
        "--batch-norm",
        type=click.Choice(["eval", "train"]),
        default="eval",
        show_default=True,
        help="eval keeps the statistics of the pretraining, train follows the batches.",
    ),
    click.option("--class-weight", type=click.Choice(["balanced"]), help="Let every class count alike."),
    click.option(
        "--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Pieces of a batch, to save memory."
    ),
    click.option("--checkpointing", is_flag=True, help="Compute activations twice, to save memory."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="In training.",
    ),
    click.option(
        "--patience", type=click.IntRange(0), help="Epochs without a better one; 0: to the end.  [default: a third]"
    ),
    click.option(
        "--cache",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Activations of the frozen bottom, in shards.",
    ),
    click.option("--views", type=click.IntRange(1), help="Augmented views of each image in that cache.  [default: 4]"),
)


@click.command()
@click.argument("store", type=click.Path())
@HELD
@SEED
@AS_JSON
def advise(store: str, as_json: bool, **given: Any) -> None:
    """Say from the cache alone whether to probe, to tune, how deep, or to label more.

    Nothing is embedded or tuned, and the split that probe reports is not looked at. Evidence gets better with all
    stages and raw pixels in the store: extract --layers stages, then probe.

    \b
      $ featurepipe extract data/digits -s digits.store --layers stages
      $ featurepipe probe digits.store --kind ridge
      $ featurepipe advise digits.store
      $ featurepipe advise digits.store --json
    """
    from featurepipe import stages

    show(as_json, stages.advise(store, listener=Talk(), **given), advise_text)


@click.command()
@click.argument("source", type=click.Path())
@click.argument("data", type=click.Path(), required=False)
@click.option("-o", "--output", type=click.Path(), help="Model file.  [default: in the backbone's folder of the store]")
@click.option("-b", "--backbone", help="Which backbone of the store, if it holds several.")
@WEIGHTS
@RECIPE
@click.option("--from-scratch", is_flag=True, help="Also train the same network from random weights, to compare.")
@MEMORY
@DEVICE
@WORKERS
@SEED
@AS_JSON
def finetune(source: str, data: str | None, output: str | None, as_json: bool, **given: Any) -> None:
    """Tune a network from where its probe stopped, and keep it if validation images say so.

    SOURCE is a store or a model file, DATA the images (a folder, a table, or with a model file a store); by default a
    store's own. The epoch that is kept is chosen as C is; where it has no more validation images right than the probe,
    the file holds the probe. The same command goes on after an interruption. Several GPUs: torchrun --nproc-per-node N
    --no-python featurepipe finetune …

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe finetune digits.store --tune last-1 --augment crop --epochs 2
    """
    from featurepipe import stages

    given = {name: value for name, value in given.items() if value is not None}
    result = stages.finetune(source, data, output, listener=Talk(), **given)
    if "model" in result:  # of several processes, the first one talks
        show(as_json, result, finetune_text)
    if was_interrupted(result.get("finetuning", result)):
        raise click.exceptions.Exit(INTERRUPTED)


def was_interrupted(told: dict[str, Any]) -> bool:
    """Whether Ctrl-C ended a tuning, or the same from scratch."""
    return "interrupted" in (told.get("stopped"), (told.get("scratch") or {}).get("stopped"))
