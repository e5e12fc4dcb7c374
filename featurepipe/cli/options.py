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
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
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
    from featurepipe.stages.holding import parse_size  # here: it loads NumPy, which --help does without

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
STRICT = click.option("--strict", is_flag=True, help="Exit with code 3 if any picture was rejected or left out.")
FORCE = options(
    click.option(
        "--force",
        is_flag=True,
        help="Also replace files that featurepipe did not write. What a command reads is never replaced.",
    ),
    group="Output",
)
SAFE_CSV = options(
    click.option(
        "--safe-csv",
        is_flag=True,
        help="In CSV put an apostrophe in front of cells that a spreadsheet would take for a formula.",
    ),
    group="Output",
)
OUTPUT = options(STRICT, AS_JSON, QUIET, group="Output")
TOLD = options(AS_JSON, QUIET, group="Output")
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="Device for the network: auto, cpu, cuda, cuda:1 or mps."
)
WORKERS = click.option(
    "-j", "--workers", type=click.IntRange(1), help="Threads that read images.  [default: one per core]"
)
WEIGHTS = click.option(
    "--weights", type=click.Path(), help="Weights file (safetensors, or a torch file without pickled code)."
)
TRUST = click.option(
    "--trust",
    is_flag=True,
    help="Trust what a file says of its backbone: let it name a hub to download from, any arguments for timm, and a "
    "network of any size. It runs no code of the file.",
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
        help="Column that names groups, such as patients or videos: no split divides one.  [default: group]",
    ),
    click.option(
        "--group-from",
        metavar="REGEX",
        help="Take the group from each path instead: what the first parentheses match, or else the whole match, such "
        "as (patient\\d+).",
    ),
    group="Table",
)
CHOSEN = click.option(
    "-b",
    "--backbone",
    help="Backbone: a timm name, bundled, pixels, hog, color-histogram, sift, or a model file that carries its own "
    "(tuned.safetensors).  [default: bundled]",
)
ARCHITECTURE = options(
    click.option(
        "--backbone-arg",
        "arguments",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_parse_arguments,
        help="Argument for timm's model, such as pad_type=same; may be given again.",
    ),
    click.option("--random-weights", is_flag=True, help="Use an untrained network (see --seed), as a baseline."),
    click.option("--layer", help="Which layer to keep: penultimate, or stage1, stage2, …  [default: penultimate]"),
    click.option("--pooling", help="timm's global pooling: avg, max, token, …  [default: the model's own]"),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Number format of the forward pass; auto is bf16 where the device has it and the vectors stay the same, "
        "else fp32.",
    ),
    group="Backbone",
)
TRANSFORM = options(
    click.option(
        "--decoder",
        type=click.Choice(["auto", "torchvision", "pillow", "draft"]),
        default="auto",
        show_default=True,
        help="What decodes images. auto is torchvision: fast, and within 2/255 of pillow on photos. draft is faster "
        "still on large JPEGs.",
    ),
    click.option("--input-size", nargs=3, type=int, metavar="C H W", help="Input size of the network."),
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
    click.option("--interpolation", help="How images are resized: bilinear, bicubic, …  [default: the weights' own]"),
    click.option("--crop-pct", type=click.FloatRange(0, min_open=True), help="Share of the short side that is kept."),
    click.option(
        "--crop-mode",
        type=click.Choice(["center", "squash", "border"]),
        help="How an image becomes square: cut, squeezed, or with a border.",
    ),
    group="Input transform",
)
BATCH = click.option(
    "--batch-size", type=click.IntRange(1), help="Images per forward pass.  [default: chosen automatically]"
)
COMPILE = click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Whether to compile the network; auto does so in long runs only.",
)
COMPUTE = options(DEVICE, WORKERS)
SPEED = options(BATCH, COMPILE, group="Compute")
REHASH = options(
    click.option("--rehash", is_flag=True, help="Read every file again, also those that look unchanged."),
    group="Compute",
)
DEVICES = options(
    click.option(
        "--devices",
        callback=_parse_devices,
        default="",
        metavar="D,D,…",
        help="Use several devices, each in a process of its own: cuda:0,cuda:1.",
    ),
    group="Compute",
)
LAYERS = options(
    click.option(
        "--layers",
        metavar="L,L,…",
        help="Keep several layers in one pass: stages (all of them, and penultimate), or names of layers.",
    ),
    group="Backbone",
)
MEMORY = options(
    click.option(
        "--memory",
        callback=_parse_memory,
        metavar="SIZE",
        help="Memory for features, such as 8GB or 500MB; features larger than half of it are read from disk.  "
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
        help="Images per shard file. A crash costs the shard being filled, and what threads have computed ahead of it: "
        "several batches for each, which with small shards is more than one shard.",
    ),
    click.option("--profile", is_flag=True, help="Also print what limited the speed, and where the time went."),
    group="Output",
)
HELD = options(
    click.option("-b", "--backbone", help="Which backbone of the store to take, if it holds several."),
    click.option(
        "--layer", help="Which layer of the backbone to take, if the store holds several.  [default: penultimate]"
    ),
)
TASKS = options(
    click.option(
        "--labels",
        type=click.Path(),
        metavar="TABLE",
        help="Take labels from this table; its column id (or path) says of which image.",
    ),
    click.option(
        "--task", "tasks", metavar="T,T,…", help="Label columns of that table; each gets a model file of its own."
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
ON_DEVICES = ("logistic", "svm")  # featurepipe.probes.ON_DEVICES, likewise
STRENGTHS = {"c": "C", "alpha": "alpha", "shrinkage": "shrinkage", "k": "n_neighbors"}  # option → strength
KIND = click.option(
    "--kind",
    type=click.Choice(list(PROBES)),
    default="logistic",
    show_default=True,
    help="Kind of probe; centroid is the nearest class mean, mlp has one hidden layer.",
)
SHOTS = click.option(
    "--shots",
    callback=_parse_shots,
    metavar="N,N,…",
    help="Also report accuracy with only N labelled images per class, such as 1,5,10.",
)
BASELINES = click.option(
    "--baselines",
    type=click.Choice(["none", "simple", "full"]),
    default="simple",
    show_default=True,
    help="What to compare with. simple: always answering the commonest class, and raw pixels; full: also the same "
    "network untrained.",
)
STRENGTH = options(
    click.option(
        "--C",
        "c",
        type=click.FloatRange(0, min_open=True),
        help="Inverse regularisation strength of logistic and svm.  [default: chosen on validation data]",
    ),
    click.option(
        "--alpha",
        type=click.FloatRange(0, min_open=True),
        help="Regularisation strength of ridge and mlp.  [default: chosen on validation data]",
    ),
    click.option(
        "--shrinkage",
        type=click.FloatRange(0, 1),
        help="Shrinkage of lda's covariance, 0 to 1.  [default: chosen on validation data]",
    ),
    click.option(
        "-k",
        "--neighbors",
        "k",
        type=click.IntRange(1),
        help="Number of neighbours of knn.  [default: chosen on validation data]",
    ),
    click.option(
        "--class-weight",
        type=click.Choice(["balanced"]),
        help="Let every class count alike, however many images it has; not for centroid and knn.",
    ),
    click.option(
        "--multi-label",
        is_flag=True,
        help="Read labels as sets: cat;dog, or a lone ; for none. The probe is logistic, with a C for each label.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        metavar="NAME",  # the list of names is wider than a terminal
        help=f"Follow a published recipe, which fixes everything except --metric and --seed: {', '.join(PROTOCOLS)}.",
    ),
    click.option(
        "--metric",
        type=click.Choice(["top1", "balanced_accuracy", "map"]),
        help="What --protocol selects by and reports.  [default: the protocol's first]",
    ),
    click.option(
        "--probe-device",
        default="cpu",
        show_default=True,
        help="Where logistic and svm are fitted: cpu, cuda, cuda:1. Not tested on a GPU yet.",
    ),
    group="Probe",
)
FEW_LABELS = options(
    click.option(
        "--repeats",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        help="Random draws of labelled images for each number of --shots.",
    ),
    click.option(
        "--semi",
        is_flag=True,
        help="Also report self-training and label spreading, which use the remaining training images without their "
        "labels; this can help or hurt.",
    ),
    group="Few labels",
)
INCLUDE_BACKBONE = options(
    click.option("--include-backbone", is_flag=True, help="Put the backbone's weights into the model file."),
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
    help=f"Kind of probe ({', '.join(PROBES)}); may be given again.",
)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the transform's options into one, and the probe's strength, whatever it is called."""
    options = dict(options)
    if options.get("layers") is not None and options["layer"] is not None:
        raise click.UsageError("--layer is for one layer, --layers for several; give one of them")
    options = {key: value for key, value in options.items() if key not in ("layer", "layers") or value is not None}
    if options.get("devices"):
        if options["device"] != "auto":
            raise click.UsageError("--device is for one device, --devices for several; give one of them")
        options["device"] = options["devices"][0]
    if "mean" in options:
        fields = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size", "decoder")
        options["transform"] = {field: options.pop(field) for field in fields}
    if options.get("semi") and not options["shots"]:
        raise click.UsageError("--semi goes with few labels; say how many per class: --shots 1,5,10")
    probe_options: dict[str, Any] = {}
    if options.get("probe_device", "cpu") != "cpu" and options["kind"] not in ON_DEVICES:
        raise click.UsageError(f"--probe-device is for {' and '.join(ON_DEVICES)}, not for {options['kind']}")
    if "protocol" in options:
        probe_options = _protocol_options(options)
    if "kind" in options:
        given = {STRENGTHS[option]: options.pop(option) for option in STRENGTHS}
        strength = PROBES[options["kind"]]
        probe_options["value"] = None if strength is None else given.pop(strength, None)
        if any(value is not None for value in given.values()):
            raise click.UsageError(
                "--C is for logistic and svm, --alpha for ridge and mlp, --shrinkage for lda, --neighbors for knn"
            )
    return options, probe_options


def task_options(options: dict[str, Any], probe_options: dict[str, Any]) -> bool:
    """Whether labels come from a table; if not, its options are taken away."""
    given = [name for name in ("labels", "tasks") if options[name] is not None]
    if len(given) == 1:
        raise click.UsageError("--labels names a table and --task its columns; give both")
    if given and ("layers" in options or "protocol" in probe_options):
        raise click.UsageError("--labels is for one layer and without --protocol; leave out --layers and --protocol")
    for name in ("labels", "tasks") if not given else ():
        options.pop(name)
    return bool(given)


def _protocol_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the protocol and its metric out of the options, and with a protocol all that it fixes."""
    protocol, metric = options.pop("protocol"), options.pop("metric")
    if protocol is None:
        if metric is not None:
            raise click.UsageError("--metric is for --protocol")
        return {}
    if "layers" in options:
        raise click.UsageError("--protocol is for one layer; choose it with --layer")
    if options.pop("memory", None) is not None:
        raise click.UsageError("--memory is for probes without --protocol; protocols hold all features in memory")
    if options.pop("probe_device") != "cpu":
        raise click.UsageError("--probe-device is for probes without --protocol")
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = [flag for name, flag in FIXED.items() if context.get_parameter_source(name) is not default]
    if given:
        raise click.UsageError(f"--protocol {protocol} fixes what {', '.join(given)} would choose; drop one of them")
    for name in FIXED:
        options.pop(name)
    return {"protocol": protocol, "metric": metric}
