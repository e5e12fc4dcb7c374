"""The command line: parses, calls one stage, prints. Nothing else in the package prints or exits.

Results go to stdout, talk and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but images
were rejected and ``--strict`` was given, 130 interrupted, 143 ended by SIGTERM, 141 nobody reads stdout any more.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from featurepipe import __version__
from featurepipe.characters import shown
from featurepipe.cli import texts
from featurepipe.cli.application import evaluate, explain, predict, report
from featurepipe.cli.audits import audit
from featurepipe.cli.flags import flag, flags
from featurepipe.cli.help import Group
from featurepipe.cli.options import (
    ARCHITECTURE,
    CHOSEN,
    COLUMNS,
    CREW,
    DEVICE,
    DEVICES,
    FOLDED,
    FORCE,
    GROUPING,
    HELD,
    JOINED,
    LAYERS,
    MEMORY,
    OUTPUT,
    PROBE,
    PROBE_DETAILS,
    REHASH,
    SAFE_CSV,
    SEED,
    SPEED,
    TASKS,
    TOLD,
    TRANSFORM,
    TRUST,
    WEIGHTS,
    WORKERS,
    WRITING,
    split_options,
    task_options,
)
from featurepipe.cli.pretexts import pretrain
from featurepipe.cli.process import BROKEN_PIPE, INTERRUPTED, let_stdout_go, prepared
from featurepipe.cli.promotion import advise, finetune, was_interrupted
from featurepipe.cli.promotion_texts import run_text
from featurepipe.cli.publications import pull, push
from featurepipe.cli.samples import label, search
from featurepipe.cli.segmentations import paint, segment
from featurepipe.cli.terminal import FAILED, Talk, exit_strict, load_stages, say, show
from featurepipe.cli.zero_shot import zeroshot
from featurepipe.errors import BackboneError, FeaturepipeError
from featurepipe.vocabulary import AtlasOptions, CompareOptions, PageOptions, RunOptions

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
STORING = ("run", "extract", "probe", "compare", "finetune")
RESUME = "interrupted; the embeddings computed so far are kept; run the same command again to go on from there"
AGAIN = "interrupted; nothing was written"


@contextmanager
def _legible() -> Iterator[None]:
    """Write out, in errors of usage that leave it, what steers a terminal: arguments may be names of files."""
    try:
        yield
    except click.UsageError as error:
        error.message = shown(error.message)  # type: ignore[misc]  # final for click, and only read afterwards
        raise


class _Group(Group):
    """Turns the package's errors into one red line and an exit code, at this one place."""

    def main(self, *args: Any, **extra: Any) -> Any:
        with prepared():
            return super().main(*args, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _legible():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        as_json = "--json" in ctx.args
        try:
            with _legible():
                return super().invoke(ctx)
        except click.UsageError as error:
            if as_json:
                click.echo(json.dumps({"error": error.format_message()}))
            raise
        except FeaturepipeError as error:
            self._fail(ctx, str(error), FAILED, as_json)
        except KeyboardInterrupt:
            self._fail(ctx, RESUME if ctx.invoked_subcommand in STORING else AGAIN, INTERRUPTED, as_json)
        except BrokenPipeError:  # of stdout, as after | head -1
            let_stdout_go()
            ctx.exit(BROKEN_PIPE)
        except OSError as error:  # a full disk, a folder without permission: not our bug, so no traceback
            forbidden = "; give another place, or get the rights to use this one" if error.errno in FORBIDDEN else ""
            what = f"{error.filename or 'the operating system'}: {error.strerror or error}{forbidden}"
            self._fail(ctx, what, FAILED, as_json)

    @staticmethod
    def _fail(ctx: click.Context, message: str, code: int, as_json: bool) -> None:
        message = " ".join(message.split())
        if as_json:
            click.echo(json.dumps({"error": message}))
        say(f"featurepipe: {message}", fg="red")
        ctx.exit(code)


@click.group(
    name="featurepipe", cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="featurepipe")
def main() -> None:
    """Embed images once with a frozen pretrained backbone, then train classifiers on them in seconds.

    DATA is a folder of class folders, a folder with train/ val/ test/ above class folders, a flat folder, a zip
    or tar archive of such a folder, or a CSV, TSV, JSONL or Parquet table with the columns path, label, split,
    group and part (a box x0,y0,x1,y1).

    \b
      $ featurepipe run data/digits
      $ featurepipe run photos/ -b resnet50.a1_in1k --baselines full
    """
    if os.environ.get("NO_COLOR"):
        click.get_current_context().color = False


@main.command()
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Folder for all results.  [default: NAME.featurepipe]")
@CHOSEN
@WEIGHTS
@TRUST
@PROBE
@flag(RunOptions, "promote")
@DEVICE
@SEED
@ARCHITECTURE
@TRANSFORM
@COLUMNS
@GROUPING
@SPEED
@DEVICES
@CREW
@REHASH
@PROBE_DETAILS
@flags(PageOptions, panel="Report")
@FORCE
@OUTPUT
def run(data: str, output: str | None, strict: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Embed images, train a probe, measure it and write a report, in one command.

    DATA is a folder of images, an archive or a table; featurepipe --help describes them. All results go into
    one folder.

    \b
      $ featurepipe run data/digits
      $ featurepipe run data/digits --shots 1,10 --baselines full --json
    """
    options, probe_options = split_options(options)
    result = load_stages(quiet).run(data, output, listener=Talk(quiet), **options, **probe_options)
    show(as_json, result, run_text)
    if was_interrupted(result.get("finetune", {}).get("finetuning", {})):
        raise click.exceptions.Exit(INTERRUPTED)
    exit_strict(strict, result)


@main.command()
@click.argument("data", type=click.Path())
@click.option("-s", "--store", type=click.Path(), help="Folder that holds the embeddings.  [default: NAME.store]")
@CHOSEN
@WEIGHTS
@TRUST
@DEVICE
@SEED
@LAYERS
@ARCHITECTURE
@TRANSFORM
@COLUMNS
@GROUPING
@SPEED
@DEVICES
@CREW
@REHASH
@WRITING
@FORCE
@OUTPUT
def extract(
    data: str, store: str | None, profile: bool, strict: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Embed every image that the store does not hold yet.

    DATA is a folder of images, an archive or a table; featurepipe --help describes them.

    \b
      $ featurepipe extract data/digits
      $ featurepipe extract data/digits -s digits.store -b pixels --json
      $ featurepipe extract data/digits -s digits.store --layers stages
    """
    stages = load_stages(quiet)
    options, _ = split_options(options)
    result = stages.extract(data, store, listener=Talk(quiet), **options)
    show(as_json, result, texts.extract_text)
    if profile and not as_json:
        click.echo(texts.profile_text(result))
    exit_strict(strict, result)


@main.command()
@click.argument("store", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), help="Model file to write.  [default: in the backbone's folder of STORE]"
)
@HELD
@JOINED
@FOLDED
@click.option(
    "--layers",
    metavar="L,L,…",
    help="Probe several layers: all, or a list of names. The model file uses the deepest layer, unless another is "
    "better on validation images by more than chance explains.",
)
@WEIGHTS
@TRUST
@PROBE
@DEVICE
@WORKERS
@SEED
@TASKS
@MEMORY
@PROBE_DETAILS
@FORCE
@TOLD
def probe(store: str, output: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a classifier on cached embeddings and write a model file.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe probe digits.store -o digits.safetensors
      $ featurepipe probe digits.store --kind ridge --shots 5,10 --json
      $ featurepipe probe digits.store --kind ridge --folds 5
      $ featurepipe probe digits.store --protocol clip
      $ featurepipe extract data/digits -s digits.store -b color-histogram
      $ featurepipe probe digits.store --kind ridge --with color-histogram
    """
    stages = load_stages(quiet)
    options, probe_options = split_options(options)
    if task_options(options, probe_options):
        result = stages.probe_tasks(store, output, listener=Talk(quiet), **options, **probe_options)
        show(as_json, result, texts.tasks_text)
        return
    stage = stages.probe_layers if "layers" in options else stages.probe
    if "protocol" in probe_options:
        stage = stages.probe_protocol
        options.pop("workers")  # only baselines read images
    result = stage(store, output, listener=Talk(quiet), **options, **probe_options)
    show(as_json, result, texts.probe_text)


@main.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write the table to: FILE.html or FILE.csv.")
@flags(CompareOptions)
@TRUST
@DEVICE
@WORKERS
@SEED
@SAFE_CSV
@FORCE
@TOLD
def compare(stores: tuple[str, ...], output: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Compare backbones, layers and classifiers on the same images.

    The result is a table with one row for each backbone, layer and classifier. The best row is chosen on validation
    images, or by cross-validation. The other rows are tested against it on the test images (on val, if there are no
    test images), by McNemar's exact test with Holm's correction for the number of tests.

    \b
      $ featurepipe extract data/digits -s digits.store --layers stages
      $ featurepipe compare digits.store --kind logistic --kind ridge
      $ featurepipe compare digits.store --baselines full -o digits.html
    """
    stages = load_stages(quiet)
    result = stages.compare(stores, output, listener=Talk(quiet), **options)
    show(as_json, result, texts.compare_text)


main.add_command(audit)
main.add_command(search)
main.add_command(label)
main.add_command(segment)
main.add_command(advise)
main.add_command(finetune)
main.add_command(pretrain)
main.add_command(zeroshot)
main.add_command(evaluate)
main.add_command(predict)
main.add_command(paint)
main.add_command(explain)
main.add_command(report)
main.add_command(push)
main.add_command(pull)


@main.command()
@click.argument("path", type=click.Path())
@TOLD
def info(path: str, as_json: bool, quiet: bool) -> None:
    """Show what a store, a model file or a backbone file holds.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe info digits.store
    """
    stages = load_stages(quiet)
    show(as_json, stages.info(path), texts.info_text)


@main.command()
@click.argument("store", type=click.Path())
@click.option(
    "--repair",
    is_flag=True,
    help="Rename broken shards, so that they are no longer read. The next extract computes their rows again.",
)
@click.option(
    "--accept-edits",
    is_flag=True,
    help="Before checking, take your manual edits of manifest.csv and store.json as correct. To featurepipe, edits "
    "look like damage, so check the labels and splits first.",
)
@click.option(
    "--drift",
    is_flag=True,
    help="Also compute some embeddings again in fp32 with Pillow, and show how far the stored ones differ.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Number of images per backbone that --drift embeds again.",
)
@WEIGHTS
@TRUST
@DEVICE
@TOLD
def verify(store: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Check a store's manifest, and every row against its checksum.

    The exit code is 1 if anything is wrong.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe verify digits.store --drift
    """
    stages = load_stages(quiet)
    result = stages.verify(store, listener=Talk(quiet), **options)
    show(as_json, result, texts.verify_text)
    if not result["ok"]:
        raise click.exceptions.Exit(FAILED)


@main.command()
@click.argument("store", metavar="STORE|MODEL", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    required=True,
    help="File to write: FILE.npz, FILE.parquet or FILE.csv for embeddings, FILE.onnx for a model.",
)
@click.option(
    "--samples",
    type=click.Path(),
    metavar="DATA",
    help="Samples to compare an ONNX file with its model on, at most 64.  [default: eight made-up inputs]",
)
@HELD
@WEIGHTS
@TRUST
@DEVICE
@flags(AtlasOptions, panel="Atlas")
@SAFE_CSV
@FORCE
@TOLD
def export(store: str, output: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write the embeddings of a store, its samples for a viewer, or a model as ONNX.

    Embeddings come with ids, labels, splits and checksums, one row for each image, in the order of manifest.csv. An
    ONNX file takes pixels of the network's input size and gives probabilities. It is written only if these agree with
    the model's.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe export digits/store -o digits.npz
      $ featurepipe export digits -o digits.onnx
      $ featurepipe export digits/store -o a.parquet --for atlas --model digits
    """
    stages = load_stages(quiet)
    result = stages.export(store, output, listener=Talk(quiet), **options)
    show(as_json, result, texts.export_text)


@main.command()
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="List only names that have pretrained weights to download.")
@TOLD
def backbones(pattern: str, pretrained: bool, as_json: bool, quiet: bool) -> None:
    """List backbone names that match a shell pattern.

    \b
      $ featurepipe backbones 'vit_tiny*' --pretrained
    """
    from featurepipe.backbones import names

    found = names(pattern, pretrained=pretrained)
    if not found:
        raise BackboneError(f"no name matches {pattern!r}; try '*{pattern}*', and --pretrained for names with a tag")
    show(as_json, {"backbones": found}, lambda r: "\n".join(r["backbones"]))
