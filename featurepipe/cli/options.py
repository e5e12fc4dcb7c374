"""Options that several commands share, and what of them goes together."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from featurepipe.cli.flags import flag, flags
from featurepipe.cli.help import options
from featurepipe.errors import ProbeError
from featurepipe.vocabulary import (
    BackboneOptions,
    ColumnOptions,
    ComputeOptions,
    EntryOptions,
    ExtractOptions,
    FoldOptions,
    JoinOptions,
    OriginOptions,
    ProbeOptions,
    ProtocolOptions,
    TableOptions,
    TransformOptions,
    flags_of,
)
from featurepipe.vocabulary.names import KINDS, ON_DEVICES


def _parse_memory(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from featurepipe.memory import parse_size

    try:
        return parse_size(value)
    except ProbeError as error:
        raise click.BadParameter(str(error)) from None


def _parse_tokens(_: click.Context, __: click.Parameter, value: str | None) -> int | bool | None:
    if value is None or value == OWN_GRID:
        return None if value is None else True
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is not a grid; give a whole number from 1, such as 7, or leave it out")
    return int(value)


OWN_GRID = "own"
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print the result and errors, but no notes and no progress.")
STRICT = click.option(
    "--strict",
    is_flag=True,
    help="Exit with code 3 if any image could not be read, or if any image or symbolic link was skipped.",
)
FORCE = options(
    click.option(
        "--force",
        is_flag=True,
        help="Also replace files that featurepipe did not write. Files that the command reads, and tables in the "
        "folder of the data, are never replaced.",
    ),
    group="Output",
)
SAFE_CSV = options(
    click.option(
        "--safe-csv",
        is_flag=True,
        help="In CSV files, put an apostrophe before every cell that a spreadsheet would run as a formula.",
    ),
    group="Output",
)
TOLD = options(AS_JSON, options(QUIET, group="Output"))
OUTPUT = options(STRICT, TOLD)
SEED = flag(ProbeOptions, "seed")
DEVICE, WEIGHTS, TRUST = (flag(OriginOptions, name) for name in ("device", "weights", "trust"))
WORKERS = flag(ComputeOptions, "workers")
COLUMNS = options(flags(ColumnOptions, panel="Table"), flags(ColumnOptions, panel="Medium"))
GROUPING = options(flag(TableOptions, "group_column"), flag(TableOptions, "group_from"))
CHOSEN = click.option(
    "-b",
    "--backbone",
    help="Backbone to use: bundled, pixels, hog, color-histogram, sift or a timm name; mfcc and "
    "speech-embedding:FOLDER for sounds; color-motion, inflated:NAME and i3d for videos; all-minilm-l6-v2, "
    "sentence-transformers:NAME, model2vec:NAME, word2vec:FILE and tfidf for texts; torchvision:NAME, "
    "transformers:FOLDER, open_clip:ARCH/TAG, onnx:FILE, keras:FILE or "
    "tensorflow:FOLDER; module:PACKAGE.FILE:FUNCTION for a torch module of your own; or a model file that holds its "
    "own backbone, such as tuned.safetensors. A name may say which library it belongs to, as in timm:resnet50.  "
    "[default: efficientnet_lite0 with featurepipe[offline], else bundled; all-minilm-l6-v2 for texts]",
)
ARCHITECTURE = flags(BackboneOptions, panel="Backbone", without=("weights", "trust"))
TRANSFORM = flags(TransformOptions, panel="Input transform")
SPEED = flags(ComputeOptions, panel="Compute")
DEVICES, REHASH = flag(ExtractOptions, "devices"), flag(ExtractOptions, "rehash")
CREW = options(flag(ExtractOptions, "crew"), flag(ExtractOptions, "gpus_per_actor"))
LAYERS = options(
    click.option(
        "--layers",
        metavar="L,L,…",
        help="Keep several layers in one pass: stages (every stage, and penultimate), or a list of layer names.",
    ),
    click.option(
        "--tokens",
        is_flag=False,
        flag_value=OWN_GRID,
        callback=_parse_tokens,
        metavar="[GRID]",
        help="Also keep an embedding for each patch of an image, in the same pass, for attentive and segmentation "
        "probes. A number, such as 7, averages the patches to a grid of 7 by 7. Without a number the network's own "
        "grid is kept.",
    ),
    group="Backbone",
)
MEMORY = options(
    click.option(
        "--memory",
        callback=_parse_memory,
        metavar="SIZE",
        help="Memory for features, such as 8GB or 500MB. Features larger than half of it are read from disk.  "
        "[default: what is available]",
    ),
    group="Compute",
)
WRITING = options(
    click.option(
        "--rows-per-shard",
        type=click.IntRange(1),
        default=1024,
        show_default=True,
        help="Number of rows per shard file. A crash loses the unfinished shard and several batches per "
        "thread. If shards are small, more than one may be lost.",
    ),
    click.option("--profile", is_flag=True, help="Also print where the time went and what limited the speed."),
    group="Output",
)
JOINED = flag(JoinOptions, "with_")
FOLDED = flag(FoldOptions, "folds")
HELD = options(flag(EntryOptions, "backbone"), flag(EntryOptions, "layer"))
TASKS = options(
    click.option(
        "--labels",
        type=click.Path(),
        metavar="TABLE",
        help="Table to take labels from. Its column id (or path) names the image.",
    ),
    click.option(
        "--task", "tasks", metavar="T,T,…", help="Label columns of the --labels table. Each gets its own model file."
    ),
    group="Labels",
)
PROBE = flags(ProbeOptions, without=("seed",))
PROBE_DETAILS = options(
    flags(ProbeOptions, ProtocolOptions, panel="Probe", last=("protocol", "metric", "probe_device")),
    flags(ProbeOptions, panel="Few labels"),
    flag(EntryOptions, "include_backbone"),
)
FREE = ("seed", "probe_device")  # what a protocol leaves to choose, or is refused by itself
FIXED = {flag.keyword: flag.long for field, flag in flags_of(ProbeOptions) if field.name not in FREE}
STRENGTHS = {  # option → strength
    "c": "C",
    "alpha": "alpha",
    "shrinkage": "shrinkage",
    "k": "n_neighbors",
}


def _resolve_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    if "all" not in devices:
        return devices
    from featurepipe.backbones import resolve_devices  # here: it loads torch, which --help does without

    return resolve_devices(devices)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the transform's options into one, and the probe's strength, whatever it is called."""
    options = dict(options)
    if options.get("layers") is not None and options["layer"] is not None:
        raise click.UsageError("--layer is for one layer and --layers for several; give only one of them")
    options = {key: value for key, value in options.items() if key not in ("layer", "layers") or value is not None}
    if options.get("devices"):
        if options["device"] != "auto":
            raise click.UsageError("--device is for one device and --devices for several; give only one of them")
        options["devices"] = _resolve_devices(options["devices"])
        options["device"] = options["devices"][0]
    if "mean" in options:
        options["transform"] = {field.name: options.pop(field.name) for field in fields(TransformOptions)}
    if options.get("semi") and not options["shots"]:
        raise click.UsageError("--semi needs a number of labels per class; add --shots, such as --shots 1,5,10")
    probe_options: dict[str, Any] = {}
    if options.get("probe_device", "cpu") != "cpu" and options["kind"] not in ON_DEVICES:
        raise click.UsageError(
            f"--probe-device is for {', '.join(ON_DEVICES)}, not for {options['kind']}; leave it out"
        )
    if "protocol" in options:
        probe_options = _protocol_options(options)
    if "kind" in options:
        given = {STRENGTHS[option]: options.pop(option) for option in STRENGTHS}
        strength = KINDS[options["kind"]]
        probe_options["value"] = None if strength is None else given.pop(strength, None)
        if any(value is not None for value in given.values()):
            raise click.UsageError(
                "--C is for logistic and svm, --alpha for ridge, mlp and attentive, --shrinkage for lda, --neighbors "
                "for knn and approximate-knn; leave out what the kind does not take"
            )
    return options, probe_options


def task_options(options: dict[str, Any], probe_options: dict[str, Any]) -> bool:
    """Whether labels come from a table; if not, its options are taken away."""
    given = [name for name in ("labels", "tasks") if options[name] is not None]
    if len(given) == 1:
        raise click.UsageError("--labels names a table and --task its columns; give both options")
    if given and ("layers" in options or "protocol" in probe_options):
        raise click.UsageError("--labels cannot be combined with --layers or --protocol; leave them out")
    if options["with_"] and (given or "layers" in options or "protocol" in probe_options):
        raise click.UsageError("--with cannot be combined with --layers, --labels or --protocol; leave them out")
    if options["folds"] and (given or "layers" in options or "protocol" in probe_options):
        raise click.UsageError("--folds cannot be combined with --layers, --labels or --protocol; leave them out")
    for name in ("with_", "folds"):
        if not options[name]:
            options.pop(name)
    for name in ("labels", "tasks") if not given else ():
        options.pop(name)
    return bool(given)


def _protocol_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the protocol and its metric out of the options, and with a protocol all that it fixes."""
    protocol, metric = options.pop("protocol"), options.pop("metric")
    if protocol is None:
        if metric is not None:
            raise click.UsageError("--metric works only with --protocol; leave it out, or add --protocol")
        return {}
    if "layers" in options:
        raise click.UsageError("--protocol works on one layer; replace --layers by --layer")
    if options.pop("memory", None) is not None:
        raise click.UsageError(
            "--memory does not work with --protocol, which holds all features in memory; leave it out"
        )
    if options.pop("probe_device") != "cpu":
        raise click.UsageError("--probe-device does not work with --protocol; leave it out")
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = [flag for name, flag in FIXED.items() if context.get_parameter_source(name) is not default]
    if given:
        raise click.UsageError(f"--protocol {protocol} fixes what {', '.join(given)} would choose; drop one of them")
    for name in FIXED:
        options.pop(name)
    return {"protocol": protocol, "metric": metric}
