"""Options that several commands share."""

from __future__ import annotations

import ast
from typing import Any

import click

from featurepipe.cli.help import options
from featurepipe.errors import FinetuningError, ProbeError


def _parse_arguments(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value that is a Python literal becomes one (8, True, (1, 2)), anything else stays text."""
    arguments: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as pad_type=same")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return arguments


def _parse_shots(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        shots = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1,5,10") from None
    if any(n < 1 for n in shots):
        raise click.BadParameter("shots must be at least 1")
    return shots


def _parse_kinds(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from featurepipe.probes import KINDS  # here: it loads NumPy, which --help does without

    unknown = [value for value in values if value not in KINDS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(KINDS)}")
    return tuple(dict.fromkeys(values))


def _parse_memory(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from featurepipe.memory import parse_size

    try:
        return parse_size(value)
    except ProbeError as error:
        raise click.BadParameter(str(error)) from None


def parse_depth(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """How deep to tune, if that reads as one."""
    if value is None:
        return None
    from featurepipe.finetuning import check_depth  # here: it loads NumPy, which --help does without

    try:
        check_depth(value)
    except FinetuningError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _parse_devices(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print the result and errors, but no notes and no progress.")
STRICT = click.option(
    "--strict", is_flag=True, help="Exit with code 3 if any image was rejected, or an image or link left out."
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
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="Device that runs the network: auto, cpu, cuda, cuda:1 or mps."
)
WORKERS = options(
    click.option(
        "-j", "--workers", type=click.IntRange(1), help="Number of threads that read images.  [default: one per core]"
    ),
    group="Compute",
)
WEIGHTS = options(
    click.option(
        "--weights",
        type=click.Path(),
        help="File with the network's weights: safetensors, or a torch file without pickled code.",
    ),
    group="Backbone",
)
TRUST = options(
    click.option(
        "--trust",
        is_flag=True,
        help="Trust what a file says about its backbone. The file may then have weights downloaded, name a "
        "hub, pass any arguments to timm, ask for a network of any size, and import the function that makes a module: "
        "backbone. Code in the file itself is never run.",
    ),
    group="Backbone",
)
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed for every random draw.")
COLUMNS = options(
    click.option("--path-column", metavar="NAME", help="Column that names the files.  [default: path]"),
    click.option("--label-column", metavar="NAME", help="Column that holds the labels.  [default: label]"),
    group="Table",
)
GROUPING = options(
    click.option(
        "--group",
        "group_column",
        metavar="NAME",
        help="Column that names a group, such as a patient or a video. No split divides a group.  [default: group]",
    ),
    options(
        click.option(
            "--group-from",
            metavar="REGEX",
            help="Take the group from each path instead, with a pattern such as (patient\\d+). The group is what the "
            "first parentheses match, or the whole match if there are none.",
        ),
        group="Table",
    ),
)
CHOSEN = click.option(
    "-b",
    "--backbone",
    help="Backbone to use: a timm name, bundled, pixels, hog, color-histogram or sift; torchvision:NAME; "
    "module:PACKAGE.FILE:FUNCTION for a torch module of your own; or a model file that holds its own backbone, such as "
    "tuned.safetensors. FAMILY:NAME names the family of any backbone.  [default: bundled]",
)
ARCHITECTURE = options(
    click.option(
        "--backbone-arg",
        "arguments",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_parse_arguments,
        help="Extra argument for the timm model, such as pad_type=same. Repeat the option to give several.",
    ),
    click.option(
        "--random-weights", is_flag=True, help="Use the network untrained, as a baseline. --seed draws its weights."
    ),
    click.option("--layer", help="Layer to keep: penultimate, or stage1, stage2, …  [default: penultimate]"),
    click.option("--pooling", help="Global pooling in timm: avg, max, token, …  [default: the model's own]"),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Number format of the forward pass. auto is bf16 if the device supports it and the vectors stay the same, "
        "and fp32 otherwise.",
    ),
    group="Backbone",
)
TRANSFORM = options(
    click.option(
        "--decoder",
        type=click.Choice(["auto", "torchvision", "pillow", "draft"]),
        default="auto",
        show_default=True,
        help="Library that decodes images. auto is torchvision: fast, and within 2/255 of pillow on photos. draft is "
        "even faster on large JPEGs.",
    ),
    click.option(
        "--input-size",
        nargs=3,
        type=int,
        metavar="C H W",
        help="Input size of the network: channels, height and width.",
    ),
    click.option(
        "--mean",
        nargs=3,
        type=float,
        metavar="R G B",
        help="Per-channel mean of pixels scaled to 0–1.  [default: the weights' own]",
    ),
    click.option(
        "--std",
        nargs=3,
        type=float,
        metavar="R G B",
        help="Per-channel standard deviation of pixels scaled to 0–1.  [default: the weights' own]",
    ),
    click.option(
        "--interpolation", help="Method that resizes images: bilinear, bicubic, …  [default: the weights' own]"
    ),
    click.option(
        "--crop-pct", type=click.FloatRange(0, min_open=True), help="Share of the short side that the crop keeps."
    ),
    click.option(
        "--crop-mode",
        type=click.Choice(["center", "squash", "border"]),
        help="How an image becomes square: center cuts, squash squeezes, border adds a border.",
    ),
    group="Input transform",
)
BATCH = click.option(
    "--batch-size", type=click.IntRange(1), help="Number of images per forward pass.  [default: chosen automatically]"
)
COMPILE = click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Whether to compile the network. auto compiles only in long runs.",
)
SPEED = options(WORKERS, BATCH, COMPILE, group="Compute")
REHASH = options(
    click.option("--rehash", is_flag=True, help="Read every file again, even if it looks unchanged."),
    group="Compute",
)
DEVICES = options(
    click.option(
        "--devices",
        callback=_parse_devices,
        default="",
        metavar="D,D,…",
        help="Several devices to use at once, each in its own process, such as cuda:0,cuda:1.",
    ),
    group="Compute",
)
LAYERS = options(
    click.option(
        "--layers",
        metavar="L,L,…",
        help="Keep several layers in one pass: stages (every stage, and penultimate), or a list of layer names.",
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
        help="Number of images per shard file. A crash loses the shard being filled and several batches for each "
        "thread. With small shards, that is more than one shard.",
    ),
    click.option("--profile", is_flag=True, help="Also print where the time went and what limited the speed."),
    group="Output",
)
HELD = options(
    click.option("-b", "--backbone", help="Backbone to use, if the store holds several."),
    click.option("--layer", help="Layer to use, if the store holds several.  [default: penultimate]"),
)
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
PROTOCOLS = (
    "featurepipe",
    "clip",
    "dinov2-logreg",
    "dinov2-knn",
    "kornblith",
    "vissl-svm",
    "vissl-lowshot-svm",
    "bigvision-fewshot",
    "lpft",
)
FIXED = {  # all that a protocol decides or leaves no room for
    "kind": "--kind",
    "c": "--C",
    "alpha": "--alpha",
    "shrinkage": "--shrinkage",
    "k": "--neighbors",
    "class_weight": "--class-weight",
    "multi_label": "--multi-label",
    "shots": "--shots",
    "repeats": "--repeats",
    "semi": "--semi",
    "baselines": "--baselines",
}
MULTI_LABEL = "multi-label"  # featurepipe.probes.MULTI_LABEL, for the reason below
# featurepipe.probes.KINDS and the names of their strengths, known here so that --help need not import scikit-learn.
PROBES = {
    "logistic": "C",
    "ridge": "alpha",
    "svm": "C",
    "lda": "shrinkage",
    "centroid": None,
    "knn": "n_neighbors",
    "mlp": "alpha",
}
ON_DEVICES = ("logistic", "svm")  # featurepipe.probes.ON_DEVICES, for the same reason
STRENGTHS = {"c": "C", "alpha": "alpha", "shrinkage": "shrinkage", "k": "n_neighbors"}  # option → strength
KIND = click.option(
    "--kind",
    type=click.Choice(list(PROBES)),
    default="logistic",
    show_default=True,
    help="Kind of probe. centroid is the nearest class mean; mlp has one hidden layer.",
)
SHOTS = click.option(
    "--shots",
    callback=_parse_shots,
    metavar="N,N,…",
    help="Also report accuracy with only N labelled images per class. Give one or more numbers, such as 1,5,10.",
)
BASELINES = click.option(
    "--baselines",
    type=click.Choice(["none", "simple", "full"]),
    default="simple",
    show_default=True,
    help="What to compare the probe with. simple: always answering the most common class, and raw pixels. full: also "
    "the same network untrained.",
)
STRENGTH = options(
    click.option(
        "--C",
        "c",
        type=click.FloatRange(0, min_open=True),
        help="Inverse regularisation strength of a logistic or svm probe.  [default: chosen on validation data]",
    ),
    click.option(
        "--alpha",
        type=click.FloatRange(0, min_open=True),
        help="Regularisation strength of a ridge or mlp probe.  [default: chosen on validation data]",
    ),
    click.option(
        "--shrinkage",
        type=click.FloatRange(0, 1),
        help="Shrinkage of the covariance of an lda probe, from 0 to 1.  [default: chosen on validation data]",
    ),
    click.option(
        "-k",
        "--neighbors",
        "k",
        type=click.IntRange(1),
        help="Number of neighbours of a knn probe.  [default: chosen on validation data]",
    ),
    click.option(
        "--class-weight",
        type=click.Choice(["balanced"]),
        help="Give every class the same weight, however many images it has. Not for centroid and knn.",
    ),
    click.option(
        "--multi-label",
        is_flag=True,
        help="Read labels as sets, such as cat;dog. A single ; is the empty set. The probe is logistic and has a C for "
        "each label.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        metavar="NAME",  # the list of names is wider than a terminal
        help="Follow a published recipe, which fixes everything except --metric and --seed. The recipes are "
        f"{', '.join(PROTOCOLS)}.",
    ),
    click.option(
        "--metric",
        type=click.Choice(["top1", "balanced_accuracy", "map"]),
        help="Metric that --protocol selects by and reports.  [default: the protocol's first]",
    ),
    click.option(
        "--probe-device",
        default="cpu",
        show_default=True,
        help="Device that fits a logistic or svm probe: cpu, cuda or cuda:1. Not tested on a GPU yet.",
    ),
    group="Probe",
)
FEW_LABELS = options(
    click.option(
        "--repeats",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        help="Number of random draws of labelled images for each number in --shots.",
    ),
    click.option(
        "--semi",
        is_flag=True,
        help="Also report self-training and label spreading. They use the remaining training images without their "
        "labels, which can help or hurt.",
    ),
    group="Few labels",
)
INCLUDE_BACKBONE = options(
    click.option("--include-backbone", is_flag=True, help="Store the backbone's weights in the model file."),
    group="Output",
)
PROBE = options(KIND, SHOTS, BASELINES)
PROBE_DETAILS = options(STRENGTH, FEW_LABELS, INCLUDE_BACKBONE)
KINDS = click.option(
    "--kind",
    "kinds",
    callback=_parse_kinds,
    multiple=True,
    metavar="KIND",
    default=["logistic"],
    show_default=True,
    help=f"Kind of probe ({', '.join(PROBES)}). Repeat the option to give several.",
)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the transform's options into one, and the probe's strength, whatever it is called."""
    options = dict(options)
    if options.get("layers") is not None and options["layer"] is not None:
        raise click.UsageError("--layer is for one layer and --layers for several; give only one of them")
    options = {key: value for key, value in options.items() if key not in ("layer", "layers") or value is not None}
    if options.get("devices"):
        if options["device"] != "auto":
            raise click.UsageError("--device is for one device and --devices for several; give only one of them")
        options["device"] = options["devices"][0]
    if "mean" in options:
        fields = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size", "decoder")
        options["transform"] = {field: options.pop(field) for field in fields}
    if options.get("semi") and not options["shots"]:
        raise click.UsageError("--semi needs a number of labels per class; add --shots, such as --shots 1,5,10")
    probe_options: dict[str, Any] = {}
    if options.get("probe_device", "cpu") != "cpu" and options["kind"] not in ON_DEVICES:
        raise click.UsageError(
            f"--probe-device is for {' and '.join(ON_DEVICES)}, not for {options['kind']}; leave it out"
        )
    if "protocol" in options:
        probe_options = _protocol_options(options)
    if "kind" in options:
        given = {STRENGTHS[option]: options.pop(option) for option in STRENGTHS}
        strength = PROBES[options["kind"]]
        probe_options["value"] = None if strength is None else given.pop(strength, None)
        if any(value is not None for value in given.values()):
            raise click.UsageError(
                "--C is for logistic and svm, --alpha for ridge and mlp, --shrinkage for lda, --neighbors for knn; "
                "leave out what the kind does not take"
            )
    return options, probe_options


def task_options(options: dict[str, Any], probe_options: dict[str, Any]) -> bool:
    """Whether labels come from a table; if not, its options are taken away."""
    given = [name for name in ("labels", "tasks") if options[name] is not None]
    if len(given) == 1:
        raise click.UsageError("--labels names a table and --task its columns; give both options")
    if given and ("layers" in options or "protocol" in probe_options):
        raise click.UsageError("--labels cannot be combined with --layers or --protocol; leave them out")
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
