"""The stage `run`: the whole pipeline, from images to a page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe import backbones, finetuning, manifests, protocols
from featurepipe.backbones import Extractor
from featurepipe.errors import BackboneError, FinetuningError, OutputError, ProbeError
from featurepipe.files import check_output, write_text
from featurepipe.listeners import BARS, Listener, Once
from featurepipe.probes.options import Options
from featurepipe.stages.evaluations import evaluate
from featurepipe.stages.extractions import default_name, extract, make_extractor
from featurepipe.stages.probes import probe
from featurepipe.stages.promotions import finetune
from featurepipe.stages.protocols import probe_protocol
from featurepipe.stages.reports import DRAWN, report
from featurepipe.stores import Store
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch

MERGED = "metrics.json"


@guarded
def run(
    data: str | Path,
    output: str | Path | None = None,
    *,
    backbone: str | PathLike[str] | torch.nn.Module | Extractor | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    group_from: str | None = None,
    kind: str = "logistic",
    value: float | None = None,
    class_weight: str | None = None,
    multi_label: bool = False,
    shots: Sequence[int] = (),
    repeats: int = 10,
    semi: bool = False,
    baselines: str = "simple",
    protocol: str | None = None,
    metric: str | None = None,
    promote: str | None = None,
    include_backbone: bool = False,
    seed: int = 0,
    probe_device: str = "cpu",
    device: str = "auto",
    devices: Sequence[str] = (),
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    rehash: bool = False,
    force: bool = False,
    listener: Listener = BARS,
    **options: Any,
) -> dict[str, Any]:
    """Extract, probe, evaluate the written model file, and draw its report.

    Parameters
    ----------
    data : path
    output : path, optional
        Folder, by default ``NAME.featurepipe`` here; it gets ``store/`` and, for each backbone,
        ``<backbone>-<fingerprint8>/`` with ``model.safetensors``, ``report.html`` and ``metrics.json``.

    protocol, metric : str, optional
        As in `probe_protocol`, instead of `kind`, `value`, `multi_label`, `shots`, `repeats`, `semi`, `baselines` and
        `probe_device`.
        A protocol that writes no model file is not evaluated again and has no report.

    promote : str, optional
        Also fine-tune: a depth as for `featurepipe.finetune`, or ``auto`` for what `featurepipe.advise` says, which may
        be to keep the probe. It gets ``tuned.safetensors`` and ``tuned.html`` next to the probe's; where nothing was
        tuned, or tuning did not pay, that file holds the probe.
    listener : Listener
        Hears notes and progress; see `extract`.

    Other parameters are those of `extract` and `probe`.

    Returns
    -------
    dict
        The results under ``extract``, ``probe`` and ``evaluate``, the same keys merged at the top (of equal ones the
        later stage's counts), ``report`` (path), ``finetune`` (with `promote`: `featurepipe.finetune`'s result and
        ``report``) and ``seconds`` (in all).
    """
    started = time.perf_counter()
    recipe: dict[str, Any] = {"kind": kind, "value": value, "class_weight": class_weight, "multi_label": multi_label}
    recipe |= {"shots": shots, "repeats": repeats, "semi": semi, "baselines": baselines, "probe_device": probe_device}
    if promote is not None:
        _check_promotion(promote, kind, multi_label, protocol)
    if protocol is not None:
        _check_protocol(protocol, metric, recipe)  # here, not after an hour of embedding
    Options(**recipe).check()
    folder = Path(output) if output is not None else default_name(data, ".featurepipe")
    if not force:
        _check_folder(folder)
    store = folder / "store"
    if not backbones.is_ready(backbone):
        options = {**options, "device": device, "seed": seed}
    listener = Once(listener)  # stages say the same of the same images
    columns = {"path_column": path_column, "label_column": label_column}
    manifest = manifests.read_aloud(data, listener, **columns, group_column=group_column, group_from=group_from)
    check = manifests.check_label_sets if multi_label else manifests.check_labels
    check(manifest.samples)  # here, not after an hour of embedding
    extractor = make_extractor(backbone, options, listener, store)
    if not isinstance(extractor.spec["layer"], str):
        raise BackboneError("run takes one layer; for several use extract and probe, each with --layers")
    if promote is not None:
        finetuning.check_tunable(extractor, promote)  # here, not after an hour of embedding
    extracted = extract(
        manifest,
        store,
        backbone=extractor,
        devices=devices,
        batch_size=batch_size,
        workers=workers,
        compile=compile,
        rehash=rehash,
        force=force,
        listener=listener,
    )
    del manifest
    results = folder / Store.open(store).entry(extractor).folder.name
    check_output(results / MERGED, "file of figures", _is_merged, force=force)
    model = results / "model.safetensors"
    both: dict[str, Any] = {"backbone": extractor, "include_backbone": include_backbone, "seed": seed, "device": device}
    both |= {"force": force, "listener": listener}
    if protocol is not None:
        output = model if protocols.named(protocol).linear else None
        probed = probe_protocol(store, output, protocol=protocol, metric=metric, **both)
    else:
        probed = probe(
            store, model, **recipe, workers=workers, trust=True, **both
        )  # of the backbone that was asked for
    evaluated = evaluate(probed["model"], store) if probed["model"] else {}  # its notes are the probe's
    drawn = report(probed["model"], results / DRAWN, force=force) if probed["model"] else {"report": None}
    merged = {
        **extracted,
        **probed,
        **evaluated,
        "contradictory": extracted["contradictory"],  # as its count is: the probe's are those of the images it used
        "extract": extracted,
        "probe": probed,
        "evaluate": evaluated,
        "report": drawn["report"],
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_text(results / MERGED, json.dumps(merged, indent=1) + "\n")
    if promote is not None:
        tuned = finetune(
            probed["model"],
            store,
            results / "tuned.safetensors",
            tune=promote,
            class_weight=class_weight,
            seed=seed,
            device=device,
            workers=workers,
            trust=True,  # the backbone is the one that was asked for here
            force=force,
            listener=listener,
        )
        merged["finetune"] = tuned | report(tuned["model"], force=force)
        merged["seconds"] = round(time.perf_counter() - started, 3)
        write_text(results / MERGED, json.dumps(merged, indent=1) + "\n")
    return merged


def _is_merged(path: Path) -> bool:
    """Whether a file holds what `run` returned."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"extract", "probe", "evaluate"} <= found.keys()


def _check_folder(folder: Path) -> None:
    """Refuse a folder of somebody else's; one that is empty, or holds a store of an earlier run, will do."""
    if folder.exists() and not (folder.is_dir() and ((folder / "store").is_dir() or not any(folder.iterdir()))):
        raise OutputError(
            f"{folder} holds other things than results of featurepipe run; give another folder with -o, or add to it "
            "with --force"
        )


def _check_promotion(promote: str, kind: str, multi_label: bool, protocol: str | None) -> None:
    """Refuse an unknown depth, and probes without a linear head for one class per image."""
    finetuning.check_depth(promote)
    if protocol is not None or multi_label or kind not in finetuning.LINEAR:
        what = (
            f"protocol {protocol}"
            if protocol is not None
            else "a multi-label probe"
            if multi_label
            else f"a {kind} probe"
        )
        raise FinetuningError(f"{what} cannot be promoted; use a {', '.join(finetuning.LINEAR)} probe without protocol")


def _check_protocol(protocol: str, metric: str | None, recipe: Mapping[str, Any]) -> None:
    """Refuse an unknown protocol or metric, and options that a protocol decides."""
    protocols.choose_metric(protocols.named(protocol), metric)
    if recipe["value"] is not None or recipe["shots"] or recipe["class_weight"] is not None:
        raise ProbeError(f"protocol {protocol} fixes them itself; leave out value, shots and class_weight")
    if recipe["multi_label"]:
        raise ProbeError(f"protocol {protocol} is for one class per image; leave out multi-label, or the protocol")
    if recipe["probe_device"] != "cpu":
        raise ProbeError(f"protocol {protocol} is followed on the cpu; leave out the probe's device, or the protocol")
