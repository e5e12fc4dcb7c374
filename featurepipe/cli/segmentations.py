"""The commands `segment` and `paint`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from featurepipe.cli.flags import flag
from featurepipe.cli.help import Command, options
from featurepipe.cli.options import COLUMNS, DEVICE, FORCE, OUTPUT, SEED, SPEED, TOLD, TRUST, WEIGHTS
from featurepipe.cli.terminal import Talk, exit_strict, load_stages, show
from featurepipe.cli.texts import columns, percent
from featurepipe.vocabulary import EntryOptions
from featurepipe.vocabulary.names import SEGMENTATION_KINDS

SHOWN = 20  # classes


@click.command(cls=Command)
@click.argument("store", type=click.Path())
@click.argument("masks", type=click.Path())
@options(
    click.option(
        "-o",
        "--output",
        type=click.Path(),
        help="Model file to write: FILE.safetensors.  [default: segmentation.safetensors in the folder of the tokens]",
    ),
    click.option(
        "--save",
        type=click.Path(),
        metavar="FOLDER",
        help="Folder for predicted masks of the reported images, and for these images with the masks over them.",
    ),
    click.option(
        "--report",
        type=click.Path(),
        metavar="FILE",
        help="HTML report to write, with figures and pictures.  [default: next to the model file, FILE.html]",
    ),
    FORCE,
    group="Output",
)
@options(
    click.option(
        "--kind",
        type=click.Choice(SEGMENTATION_KINDS),
        default="auto",
        show_default=True,
        help="Classifier of patches. ridge and lda are in closed form, and auto takes the better one in "
        "cross-validation. logistic is trained by gradient descent and takes much longer.",
    ),
    click.option(
        "--epochs", type=click.IntRange(1), default=100, show_default=True, help="Epochs of the logistic classifier."
    ),
    click.option(
        "--no-baselines",
        "baselines",
        flag_value=False,
        default=True,
        help="Do not compare with the colours of patches.",
    ),
    group="Probe",
)
@options(
    click.option(
        "--ignore",
        type=click.IntRange(0),
        metavar="VALUE",
        help="Value of mask pixels that do not count, such as 255.",
    ),
    click.option(
        "--classes",
        metavar="NAME,NAME,…",
        help="Names of the classes, in the order of their values in the masks.  [default: the values]",
    ),
    group="Labels",
)
@flag(EntryOptions, "backbone")
@SEED
@TOLD
def segment(store: str, masks: str, as_json: bool, quiet: bool, classes: str | None, **given: Any) -> None:
    """Train a classifier of pixels on cached tokens and masks.

    STORE holds tokens, which extract --tokens makes. MASKS is a folder of PNG files that are called as their images, or
    a table with the columns path and mask. The pixels of a mask are class numbers, or one colour for each class.

    Extract with --crop-mode squash --crop-pct 1, so that the network sees the whole image.

    \b
      $ featurepipe extract photos.csv --tokens --crop-mode squash --crop-pct 1
      $ featurepipe segment photos.store photos.csv --save predicted/
    """
    named = None if classes is None else [name.strip() for name in classes.split(",")]
    show(as_json, load_stages(quiet).segment(store, masks, classes=named, listener=Talk(quiet), **given), segment_text)


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.argument("data", nargs=-1, required=True, type=click.Path())
@options(
    click.option("-o", "--output", type=click.Path(), required=True, help="New folder for the masks."),
    click.option(
        "--overlays", is_flag=True, help="Also write each image with the colours of its mask over it, ID.overlay.png."
    ),
    click.option(
        "--force",
        is_flag=True,
        help="Also write into a folder that holds files, and replace them. Files that the command reads are never "
        "replaced.",
    ),
    group="Output",
)
@WEIGHTS
@TRUST
@DEVICE
@COLUMNS
@SPEED
@OUTPUT
def paint(model: str, data: tuple[str, ...], strict: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Write a mask of each new image with a segmentation model.

    MODEL is a file that segment wrote. DATA is one or more images, folders or tables. Each mask is a PNG of the size of
    its image, and has the name of the image with .png added. Its pixels have the values of the masks that the model was
    trained on; if those were colours, the number of the class.

    \b
      $ featurepipe paint photos.safetensors holiday/ -o masks
      $ featurepipe paint photos.safetensors holiday/*.jpg -o masks --overlays
    """
    result = load_stages(quiet).paint(model, data, listener=Talk(quiet), **given)
    show(as_json, result, paint_text)
    exit_strict(strict, result)


def paint_text(result: dict[str, Any]) -> str:
    """The result of `paint`: how much is of each class, and where the masks are."""
    classes = sorted(result["classes"].items(), key=lambda item: -item[1]["share"])
    rows = [[name, percent(one["share"]), f"on {one['images']:,}"] for name, one in classes[:SHOWN]]
    lines = [f"  {line}" for line in columns([["class", "pixels", "images"], *rows], left=1)]
    lines += [f"  … and {len(classes) - SHOWN} more; --json has them all"] if len(classes) > SHOWN else []
    lines += [f"not read: {id_} ({reason})" for id_, reason in result["rejects"].items()]
    if result["seen_in_training"]:
        lines.append(f"note: the model was trained on {result['seen_in_training']:,} of these images")
    count = result["painted"]
    return "\n".join([*lines, f"{count:,} mask{'s' * (count != 1)} → {result['output']}"])


def segment_text(result: dict[str, Any]) -> str:
    """The result of `segment`: mIoU with its interval, classes, baselines, and where the model is."""
    grid = "×".join(map(str, result["grid"]))
    strength = "" if result["strength"] is None else f" ({result['strength']:g})"
    lines = [
        f"{result['kind']} segmentation{strength} on {result['backbone']}, {grid} tokens",
        f"  mIoU         {_with(result, 'miou')} of {result['n']} {result['evaluated_on']} images",
        f"  pixels right {_with(result, 'pixel_accuracy')}",
    ]
    classes = list(result["per_class"].items())
    rows = [[name, "–" if one["iou"] is None else percent(one["iou"])] for name, one in classes[:SHOWN]]
    lines += [
        f"  IoU          {line}" if not at else f"               {line}"
        for at, line in enumerate(columns(rows, left=1))
    ]
    if len(classes) > SHOWN:
        lines.append(f"               … and {len(classes) - SHOWN} more; --json has them all")
    for name, one in result["baselines"].items():
        lines.append(f"  baseline     mean {name} of each patch: mIoU {percent(one['miou'])}")
    if result["covered"] < 0.999:
        lines.append(
            f"  note: the network has seen {percent(result['covered'])} of the pixels; the others do not count"
        )
    lines += [f"model → {result['model']}", f"report → {result['report']}"]
    return "\n".join([*lines, f"masks of new images: featurepipe paint {shlex.quote(result['model'])} PHOTOS -o masks"])


def _with(result: dict[str, Any], key: str) -> str:
    told = percent(result[key])
    if (ends := result[f"{key}_interval"]) is None:
        return told
    return f"{told} (95 % interval {100 * ends[0]:.1f}–{100 * ends[1]:.1f})"
