"""The command line: parses, calls one stage, prints. Nothing else in the package prints or exits.

Results go to stdout, talk and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but images
were rejected and ``--strict`` was given, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from featurepipe import __version__
from featurepipe.cli import texts
from featurepipe.cli.options import (
    AS_JSON,
    BACKBONE,
    COMPUTE,
    DEVICE,
    DEVICES,
    HELD,
    KINDS,
    LAYERS,
    MEMORY,
    PROBE,
    SEED,
    STRICT,
    TASKS,
    WEIGHTS,
    WORKERS,
    parse_depth,
    split_options,
    task_options,
)
from featurepipe.cli.promotion import advise, finetune, was_interrupted
from featurepipe.cli.terminal import FAILED, INTERRUPTED, REJECTED, Talk, show
from featurepipe.errors import BackboneError, FeaturepipeError

REHASH = click.option("--rehash", is_flag=True, help="Distrust size, times and inode; read every file.")
STORING = ("run", "extract", "probe", "compare", "finetune")
RESUME = "interrupted; the embeddings computed so far are kept, and the same command goes on from there"
AGAIN = "interrupted; nothing was written"


class _Group(click.Group):
    """Turns the package's errors into one red line and an exit code, at this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if as_json:
                click.echo(json.dumps({"error": error.format_message()}))
            raise
        except FeaturepipeError as error:
            self._fail(ctx, str(error), FAILED, as_json)
        except KeyboardInterrupt:
            self._fail(ctx, RESUME if ctx.invoked_subcommand in STORING else AGAIN, INTERRUPTED, as_json)
        except OSError as error:  # a full disk, a folder without permission: not our bug, so no traceback
            self._fail(ctx, f"{error.filename or 'the operating system'}: {error.strerror or error}", FAILED, as_json)

    @staticmethod
    def _fail(ctx: click.Context, message: str, code: int, as_json: bool) -> None:
        message = " ".join(message.split())
        if as_json:
            click.echo(json.dumps({"error": message}))
        click.secho(f"featurepipe: {message}", fg="red", err=True)
        ctx.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="featurepipe")
def main() -> None:
    """Embed images once with a frozen pretrained backbone, then train classifiers on them in seconds.

    DATA is a folder of class folders, a folder with train/ val/ test/ above class folders, a flat folder, or a
    CSV, TSV, JSONL or Parquet table with the columns path, label and split.

    \b
      $ featurepipe run data/digits
      $ featurepipe run photos/ -b resnet50.a1_in1k --baselines full
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@main.command()
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Folder for all results.  [default: NAME.featurepipe]")
@BACKBONE
@COMPUTE
@DEVICES
@REHASH
@PROBE
@click.option(
    "--promote",
    metavar="DEPTH",
    callback=parse_depth,
    help="Also fine-tune: auto (if advice says so), head, last-N, stageK+, all.",
)
@SEED
@STRICT
@AS_JSON
def run(data: str, output: str | None, strict: bool, as_json: bool, **options: Any) -> None:
    """Extract, probe, evaluate and report in one go.

    \b
      $ featurepipe run data/digits
      $ featurepipe run data/digits --shots 1,10 --baselines full --json
    """
    from featurepipe import stages

    options, probe_options = split_options(options)
    result = stages.run(data, output, listener=Talk(), **options, **probe_options)
    show(as_json, result, texts.run_text)
    if was_interrupted(result.get("finetune", {}).get("finetuning", {})):
        raise click.exceptions.Exit(INTERRUPTED)
    _exit_strict(strict, result)


@main.command()
@click.argument("data", type=click.Path())
@click.option("-s", "--store", type=click.Path(), help="Directory of the embeddings.  [default: NAME.store]")
@BACKBONE
@LAYERS
@COMPUTE
@DEVICES
@click.option(
    "--rows-per-shard",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Planned images per file; what a crash can cost.",
)
@click.option("--profile", is_flag=True, help="Also print where the time went, step by step.")
@REHASH
@SEED
@STRICT
@AS_JSON
def extract(data: str, store: str | None, profile: bool, strict: bool, as_json: bool, **options: Any) -> None:
    """Embed every image that the store does not hold yet.

    \b
      $ featurepipe extract data/digits
      $ featurepipe extract data/digits -s digits.store -b pixels --json
      $ featurepipe extract data/digits -s digits.store --layers stages
    """
    from featurepipe import stages

    options, _ = split_options(options)
    result = stages.extract(data, store, listener=Talk(), **options)
    show(as_json, result, texts.extract_text)
    if profile and not as_json:
        click.echo(texts.profile_text(result["profile"]))
    _exit_strict(strict, result)


@main.command()
@click.argument("store", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Model file.  [default: in the backbone's folder of STORE]")
@HELD
@click.option(
    "--layers",
    metavar="L,L,…",
    help="Probe several and keep the one that validation data choose, as they choose C: all, or names.",
)
@TASKS
@WEIGHTS
@PROBE
@MEMORY
@DEVICE
@WORKERS
@SEED
@AS_JSON
def probe(store: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Train a classifier on cached embeddings and write a model file.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe probe digits.store -o digits.safetensors
      $ featurepipe probe digits.store --kind ridge --shots 5,10 --json
      $ featurepipe probe digits.store --kind ridge --shots 1,10 --repeats 5 --semi
      $ featurepipe extract data/digits -s digits.store --layers stages
      $ featurepipe probe digits.store --kind knn --neighbors 10
      $ featurepipe probe digits.store --kind ridge --layers all
      $ featurepipe probe digits.store --protocol clip
      $ featurepipe probe digits.store --multi-label
      $ featurepipe export digits.store -o digits.csv
      $ featurepipe probe digits.store --labels digits.csv --task label --kind ridge
      $ featurepipe probe digits.store --memory 500MB
    """
    from featurepipe import stages

    options, probe_options = split_options(options)
    if task_options(options, probe_options):
        result = stages.probe_tasks(store, output, listener=Talk(), **options, **probe_options)
        show(as_json, result, texts.tasks_text)
        return
    stage = stages.probe_layers if "layers" in options else stages.probe
    if "protocol" in probe_options:
        stage = stages.probe_protocol
        options.pop("workers")  # only baselines read images
    result = stage(store, output, listener=Talk(), **options, **probe_options)
    show(as_json, result, texts.probe_text)


@main.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Also write the table: FILE.html or FILE.csv.")
@KINDS
@click.option(
    "--baselines",
    type=click.Choice(["none", "simple", "full"]),
    default="simple",
    show_default=True,
    help="Rows to add. simple: raw pixels; full: also HOG, colour histogram, SIFT words, untrained copies.",
)
@click.option("--reference", help="Test the others against this backbone.  [default: the best on selection data]")
@click.option("--imagenet", type=click.Path(), metavar="CSV", help="timm's results-imagenet.csv, to correlate with.")
@DEVICE
@WORKERS
@SEED
@AS_JSON
def compare(stores: tuple[str, ...], output: str | None, as_json: bool, **options: Any) -> None:
    """Compare all backbones and layers of some stores, probe by probe, on the same images.

    The best row is chosen on selection data (val, or cross-validation), and the others are tested against it on the
    images that are reported: McNemar's exact test, with Holm's correction for so many tests.

    \b
      $ featurepipe extract data/digits -s digits.store --layers stages
      $ featurepipe compare digits.store --kind logistic --kind ridge
      $ featurepipe compare digits.store --baselines full -o digits.html
    """
    from featurepipe import stages

    result = stages.compare(stores, output, listener=Talk(), **options)
    show(as_json, result, texts.compare_text)


@main.command()
@click.argument("model", type=click.Path())
@click.argument("data", type=click.Path())
@click.option(
    "--split",
    type=click.Choice(["auto", "train", "val", "test", "all"]),
    default="auto",
    show_default=True,
    help="auto: test, else val, else images that the model has not seen.",
)
@WEIGHTS
@COMPUTE
@STRICT
@AS_JSON
def evaluate(model: str, data: str, strict: bool, as_json: bool, **options: Any) -> None:
    """Measure a model file on labelled images (DATA, or a store).

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe evaluate digits/*/model.safetensors data/digits
    """
    from featurepipe import stages

    result = stages.evaluate(model, data, listener=Talk(), **options)
    show(as_json, result, texts.evaluate_text)
    _exit_strict(strict, result)


@main.command()
@click.argument("model", type=click.Path())
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="FILE.csv, FILE.jsonl or FILE.parquet.")
@click.option("--probabilities", is_flag=True, help="Also one column per class; of sets of labels always.")
@WEIGHTS
@COMPUTE
@STRICT
@AS_JSON
def predict(model: str, data: str, output: str, strict: bool, as_json: bool, **options: Any) -> None:
    """Classify images with a model file.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe predict digits/*/model.safetensors data/digits/test/3 -o predictions.csv
    """
    from featurepipe import stages

    result = stages.predict(model, data, output, listener=Talk(), **options)
    show(as_json, result, texts.predict_text)
    _exit_strict(strict, result)


@main.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="HTML file.  [default: beside the model]")
@AS_JSON
def report(model: str, output: str | None, as_json: bool) -> None:
    """Draw the page of a model file: figures, baselines, confusions, how it was made.

    \b
      $ featurepipe run data/digits -o digits
      $ featurepipe report digits/*/model.safetensors -o digits.html
    """
    from featurepipe import stages

    show(as_json, stages.report(model, output), lambda r: f"report → {r['report']}")


@main.command()
@click.argument("path", type=click.Path())
@AS_JSON
def info(path: str, as_json: bool) -> None:
    """Say what a store or a model file holds.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe info digits.store
    """
    from featurepipe import stages

    show(as_json, stages.info(path), texts.info_text)


@main.command()
@click.argument("store", type=click.Path())
@click.option("--repair", is_flag=True, help="Set broken shards aside; extract then computes their rows again.")
@click.option("--drift", is_flag=True, help="Compare stored vectors with fp32 ones from Pillow's pixels.")
@click.option("--images", type=click.IntRange(1), default=64, show_default=True, help="So many of them.")
@WEIGHTS
@DEVICE
@AS_JSON
def verify(store: str, as_json: bool, **options: Any) -> None:
    """Check every row of a store against its checksum; exit code 1 if anything is wrong.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe verify digits.store --drift
    """
    from featurepipe import stages

    result = stages.verify(store, listener=Talk(), **options)
    show(as_json, result, texts.verify_text)
    if not result["ok"]:
        raise click.exceptions.Exit(FAILED)


@main.command()
@click.argument("store", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="FILE.npz, FILE.parquet or FILE.csv.")
@HELD
@AS_JSON
def export(store: str, output: str, backbone: str | None, layer: str | None, as_json: bool) -> None:
    """Write embeddings with ids, labels, splits and digests, in manifest order.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe export digits.store -o digits.npz
    """
    from featurepipe import stages

    result = stages.export(store, output, backbone=backbone, layer=layer)
    show(as_json, result, texts.export_text)


@main.command()
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="Only names that have pretrained weights to download.")
@AS_JSON
def backbones(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List backbone names that match a shell pattern.

    \b
      $ featurepipe backbones 'vit_tiny*' --pretrained
    """
    from featurepipe.backbones import names

    found = names(pattern, pretrained=pretrained)
    if not found:
        raise BackboneError(f"no name matches {pattern!r}; try '*{pattern}*', and --pretrained for names with a tag")
    show(as_json, {"backbones": found}, lambda r: "\n".join(r["backbones"]))


def _exit_strict(strict: bool, result: dict[str, Any]) -> None:
    if strict and result["rejected"]:
        raise click.exceptions.Exit(REJECTED)


main.add_command(advise)
main.add_command(finetune)
