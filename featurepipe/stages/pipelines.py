"""The stage `run`: the whole pipeline, from images to a page."""

from __future__ import annotations

import json
import time
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe import backbones, finetuning, manifests, protocols
from featurepipe.backbones import Extractor
from featurepipe.errors import BackboneError, FinetuningError, OutputError, ProbeError
from featurepipe.estimators.datasets import Dataset
from featurepipe.files import check_output, write_text
from featurepipe.listeners import BARS, Listener, Once
from featurepipe.probes.options import Options
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.stages.evaluations import evaluate
from featurepipe.stages.extractions import default_name, extract, make_extractor
from featurepipe.stages.probes import probe
from featurepipe.stages.promotions import finetune
from featurepipe.stages.protocols import probe_protocol
from featurepipe.stages.reports import DRAWN, report
from featurepipe.stores import Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import BackboneOptions, ExtractOptions, PageOptions, RunOptions, TableOptions

if TYPE_CHECKING:
    import torch

MERGED = "metrics.json"


@guarded
@presented
@spread(
    table=TableOptions,
    recipe=Options,
    wanted=RunOptions,
    compute=ExtractOptions,
    shown=PageOptions,
    options=BackboneOptions,
)
def run(
    data: str | PathLike[str] | Dataset,
    output: str | Path | None = None,
    *,
    backbone: str | PathLike[str] | torch.nn.Module | Extractor | None = None,
    table: TableOptions,
    recipe: Options,
    wanted: RunOptions,
    compute: ExtractOptions,
    shown: PageOptions,
    force: bool = False,
    listener: Listener = BARS,
    **options: Any,
) -> dict[str, Any]:
    """Extract, probe, evaluate the written model file, and draw its report.

    With `protocol` it is `probe_protocol` that probes; a protocol that writes no model file is not evaluated again and
    has no report.

    Parameters
    ----------
    data : path or data set
        As for `extract`.
    output : path, optional
        Folder, by default ``NAME.featurepipe`` here; it gets ``store/`` and, for each backbone,
        ``<backbone>-<fingerprint8>/`` with ``model.safetensors``, ``report.html`` and ``metrics.json``.
    backbone : str, path, Backbone or Descriptor, optional
        As for `extract`.
    table
    recipe
    wanted
    compute
    shown
    force : bool
        As for `extract` and `probe`.
    listener : Listener
        Hears notes and progress; see `extract`.
    options

    Returns
    -------
    dict
        The results under ``extract``, ``probe`` and ``evaluate``, the same keys merged at the top (of equal ones the
        later stage's counts), ``report`` (path), ``finetune`` (with `promote`: `featurepipe.finetune`'s result and
        ``report``) and ``seconds`` (in all).
    """
    started = time.perf_counter()
    if wanted.promote is not None:
        _check_promotion(wanted.promote, recipe, wanted.protocol)
    if wanted.protocol is not None:
        _check_protocol(wanted.protocol, wanted.metric, recipe)  # here, not after an hour of embedding
    recipe.check()
    folder = Path(output) if output is not None else default_name(clips.name_of(data), ".featurepipe")
    if not force:
        _check_folder(folder)
    store = folder / "store"
    if backbones.is_ready(backbone):  # these two are also for what follows
        options = {name: value for name, value in options.items() if name not in ("device", "seed")}
    else:
        options |= {"device": wanted.device, "seed": recipe.seed}
    listener = Once(listener)  # stages say the same of the same images
    manifest = clips.read(data, table, listener)
    check = manifests.check_label_sets if recipe.multi_label else manifests.check_labels
    check(manifest.samples)  # here, not after an hour of embedding
    extractor = make_extractor(backbone, options, listener, store, manifest.medium)
    if not isinstance(extractor.spec["layer"], str):
        raise BackboneError("run takes one layer; for several use extract and probe, each with --layers")
    if wanted.promote is not None:
        finetuning.check_tunable(extractor, wanted.promote)  # here, not after an hour of embedding
    extracted = extract(manifest, store, backbone=extractor, **vars(compute), force=force, listener=listener)
    del manifest
    results = folder / Store.open(store).entry(extractor).folder.name
    check_output(results / MERGED, "file of figures", _is_merged, force=force)
    model = results / "model.safetensors"
    both: dict[str, Any] = {"backbone": extractor, "include_backbone": wanted.include_backbone, "device": wanted.device}
    both |= {"force": force, "listener": listener}
    if wanted.protocol is not None:
        place = model if protocols.named(wanted.protocol).linear else None
        how = {"protocol": wanted.protocol, "metric": wanted.metric, "seed": recipe.seed}
        probed = probe_protocol(store, place, **how, **both)
    else:  # trust is of the backbone that was asked for
        probed = probe(store, model, **vars(recipe), workers=compute.workers, trust=True, **both)
    evaluated = evaluate(probed["model"], store) if probed["model"] else {}  # its notes are the probe's
    page: dict[str, Any] = {**vars(shown), "force": force, "listener": listener}
    drawn = report(probed["model"], results / DRAWN, **page) if probed["model"] else {"report": None}
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
    if wanted.promote is not None:
        tuned = finetune(
            probed["model"],
            store,
            results / "tuned.safetensors",
            tune=wanted.promote,
            class_weight=recipe.class_weight,
            seed=recipe.seed,
            device=wanted.device,
            workers=compute.workers,
            trust=True,  # the backbone is the one that was asked for here
            force=force,
            listener=listener,
        )
        merged["finetune"] = tuned | _drawn(report(tuned["model"], **page))
        merged["seconds"] = round(time.perf_counter() - started, 3)
        write_text(results / MERGED, json.dumps(merged, indent=1) + "\n")
    return merged


def _drawn(made: dict[str, Any]) -> dict[str, Any]:
    return {key: made[key] for key in ("model", "report")}


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


def _check_promotion(promote: str, recipe: Options, protocol: str | None) -> None:
    """Refuse an unknown depth, and probes without a linear head for one class per image."""
    finetuning.check_depth(promote)
    if protocol is not None or recipe.multi_label or recipe.kind not in finetuning.LINEAR:
        what = "a multi-label probe" if recipe.multi_label else f"a probe of kind {recipe.kind}"
        what = what if protocol is None else f"protocol {protocol}"
        raise FinetuningError(f"{what} cannot be promoted; use a {', '.join(finetuning.LINEAR)} probe without protocol")


def _check_protocol(protocol: str, metric: str | None, recipe: Options) -> None:
    """Refuse an unknown protocol or metric, and options that a protocol decides."""
    protocols.choose_metric(protocols.named(protocol), metric)
    if recipe.value is not None or recipe.shots or recipe.class_weight is not None:
        raise ProbeError(f"protocol {protocol} fixes them itself; leave out value, shots and class_weight")
    if recipe.multi_label:
        raise ProbeError(f"protocol {protocol} is for one class per sample; leave out multi-label, or the protocol")
    if recipe.probe_device != "cpu":
        raise ProbeError(f"protocol {protocol} is followed on the cpu; leave out the probe's device, or the protocol")
