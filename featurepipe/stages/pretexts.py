"""The stage `pretrain`: pictures → a backbone file."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe import backbones, finetuning, reports
from featurepipe.backbones import Backbone
from featurepipe.backbones.makers.assembly import resolve_device
from featurepipe.digests import sha256_file, sha256_json
from featurepipe.errors import BackboneError, OutputError, PretrainingError, TrainingDiverged
from featurepipe.files import check_output, write_text
from featurepipe.finetuning import Course, Peers
from featurepipe.listeners import BARS, SILENT, Listener
from featurepipe.manifests import Manifest
from featurepipe.memory import available, parse_size
from featurepipe.reports.pretexts import pretraining_page
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import PretrainOptions, TableOptions

if TYPE_CHECKING:
    from featurepipe.pretraining import Gathered, Plan, Pupil
    from featurepipe.pretraining.runs import Run

CLIP_SECONDS = 4.0  # of videos that are not cut by the caller: about as long as those of Owens et al.
SHOWN = 8  # pictures that the finished network is tried on
UNSTATED = "not stated; it depends on the licence of the data"
LOOSE = ("resume", "licence", "device")  # options that do not decide what is learned


@guarded
@presented
@spread(how=PretrainOptions, table=TableOptions)
def pretrain(
    data: str | Path,
    output: str | Path,
    *,
    how: PretrainOptions,
    table: TableOptions,
    workers: int | None = None,
    memory: int | str | None = None,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Pretrain a network by an objective, and write it as a backbone file that every command takes with ``-b``.

    The file is a plain checkpoint of timm, without a classifier, with a card in its metadata. Images of ``test`` are
    only read so that exact copies of them are left out. If images have labels, those of ``val`` are not learned from:
    probes are measured on them. Where there is no ``val``, up to a fifth of the images is held back for that.

    Parameters
    ----------
    data : path
        Folder or table of images. For the objective ``sound``: of videos with sound, or a table whose column ``sound``
        names a sound file for each image.
    output : path
        Backbone file, ``NAME.safetensors``. ``NAME.json`` (all figures), ``NAME.html`` (a page) and, where matplotlib
        is installed, ``NAME.png`` (the curves) go next to it. ``NAME.pretraining/`` holds a checkpoint while training.
    how
    table
    workers : int, optional
        Threads that decode; one per core by default.
    memory : int or str, optional
        How much memory decoded images may take; by default half of what there is. Beyond that they lie on disk.
    force : bool
        Also replace files that featurepipe did not write, and start again where an earlier run was interrupted: its
        checkpoint is removed when training starts.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``backbone, name, objective, curve`` (per epoch: ``epoch, train_loss, lr, seconds``, and ``knn,
        linear, n`` where probes were measured), ``card``, ``page, png`` (None without matplotlib), ``json``,
        ``stopped, images_per_second, seconds``. In all but the first of several processes, ``stopped`` alone.

    Raises
    ------
    PretrainingError
        Data, options or an objective that do not fit, or an earlier run that must be resumed or replaced.
    TrainingDiverged, OutOfMemory
        The loss is not finite, or memory runs out with a single image; the best epoch so far has been written, if
        there is one.
    KeyboardInterrupt
        Before the first epoch is over; nothing is written. From then on Ctrl-C writes the best epoch, and returns.
    """
    started = time.perf_counter()
    limit = parse_size(memory)
    # here, as they load torch, which `import featurepipe.stages` does not
    from featurepipe.pretraining import OBJECTIVES, objectives, plans, runs

    path = Path(output)
    objectives.check(how)
    plans.check(how)
    _check_outputs(path, data, how, force=force)
    with finetuning.joined(how.device) as (peers, device), ExitStack() as alone:
        listener = SILENT if peers.rank else listener
        device = resolve_device(device)
        how = replace(how, device=device, precision=plans.precision_of(how, device))
        plans.recipe_of(how, device)  # which refuses what no training goes by
        run = _Run(how, path, runs.Run(path.with_suffix(".pretraining")), peers, listener)
        peers.first(lambda: alone.enter_context(run.kept.alone()))
        peers.first(lambda: run.check_earlier(force=force))
        manifest = clips.read(data, _clipped(table, data, how), listener, own=OBJECTIVES[how.objective].columns)
        network = _network(run.how)
        source = Path(data), table.path_column or "path"
        gathered = _gathered(run, manifest, source, network, workers, limit)
        outcome, plan, pupil = _train(run, gathered, network)
        if outcome.finished or outcome.best_epoch:
            peers.first(lambda: _check_finite(pupil, gathered, outcome, path))
        if peers.rank:
            return {"stopped": outcome.stopped}
        result, failure = None, None
        try:
            if outcome.finished or outcome.best_epoch:
                result = _write(run, gathered, network, pupil, outcome, plan, Path(data), time.perf_counter() - started)
        except OutputError as error:
            failure = error
    if failure is not None:  # out here, where no other process waits
        raise failure
    if result is None:
        raise _nothing_learned(run, outcome)
    if outcome.error is not None:
        raise type(outcome.error)(f"{outcome.error}; {path} holds the best epoch so far")
    return result


@dataclass(frozen=True)
class _Run:
    """Who trains what, where."""

    how: PretrainOptions
    path: Path
    kept: Run
    peers: Peers
    listener: Listener

    def options(self) -> dict[str, Any]:
        """What decides the run, as JSON."""
        told = {key: value for key, value in asdict(self.how).items() if key not in LOOSE}
        return json.loads(json.dumps(told, default=str))

    def check_earlier(self, *, force: bool) -> None:
        """Refuse to replace an earlier run that could be resumed, or to resume another one."""
        if self.how.resume:
            if not self.kept.begun:
                self.listener.note(f"note: {self.kept.folder} holds nothing to resume; training starts")
            self.kept.check_options(self.options())
        elif self.kept.begun and not force:
            raise PretrainingError(
                f"{self.kept.folder} holds a run that was interrupted; add --resume to continue it, or --force to "
                "start again"
            )

    def begin(self, sources: dict[str, str]) -> dict[str, Any]:
        """What the run to be resumed recorded, if it learns from the same; a run that is not resumed is forgotten."""
        if not self.how.resume:
            self.kept.forget()
            return {}
        told = self.kept.told()
        self.kept.check_sources(sources)
        if told.get("processes", self.peers.world) != self.peers.world:
            self.listener.note(
                f"note: the run was begun by {told['processes']} processes, and {self.peers.world} continue it; the "
                "curve may differ from that of an uninterrupted run"
            )
        return told


def _check_outputs(path: Path, data: str | Path, how: PretrainOptions, *, force: bool) -> None:
    """Refuse, before anything is read, places where the backbone file or its figures cannot or must not be written."""
    from featurepipe.pretraining import curves, files

    if path.suffix.lower() != ".safetensors":
        raise OutputError(f"{path} must end in .safetensors, as backbone files do; give another name with -o")
    if Path(data).is_dir() and Path(data).resolve() in path.resolve().parents:
        raise OutputError(
            f"{path} lies in {data}, and the picture of its curves would be one of the images; give another place "
            "with -o"
        )
    given = [data, how.weights, how.teacher_weights, how.teacher]
    files.check_output(path, given, force=force)
    for suffix, what, is_ours in (
        (".json", "file of figures", files.is_figures),
        (".html", "page", reports.is_page),
        (".png", "picture of curves", curves.is_drawn),
    ):
        check_output(path.with_suffix(suffix), what, is_ours, given, force=force)


def _nothing_learned(run: _Run, outcome: Course) -> BaseException:
    """What to raise where training ended before its first epoch: an untrained network replaces no file."""
    if outcome.error is not None:
        why, _, _ = str(outcome.error).partition("; epoch 0 is kept")
        return type(outcome.error)(f"{why}; no epoch was finished, so {run.path} was not written")
    if run.kept.begun:
        run.listener.note(f"note: {run.kept.checkpoint} keeps the training so far; add --resume to continue")
    return KeyboardInterrupt()


def _clipped(table: TableOptions, data: str | Path, how: PretrainOptions) -> TableOptions:
    """Videos are cut into clips, each with a frame and a sound."""
    if how.objective != "sound" or table.clip_seconds is not None or table.medium not in (None, "video"):
        return table
    found = clips.read(data, table, SILENT)
    return replace(table, clip_seconds=CLIP_SECONDS) if found.medium == "video" else table


def _network(how: PretrainOptions) -> Backbone:
    """The network that is trained, as it starts."""
    size = () if how.input_size is None else tuple(how.input_size)
    if size and (len(size) != 3 or size[0] != 3 or min(size) < 1):
        raise PretrainingError(f"input_size is 3, height and width, not {' '.join(map(str, size))}; give these")
    if (how.backbone or "").endswith(".safetensors"):
        raise PretrainingError(
            f"{how.backbone} is a file; name its architecture with -b, and give the file with --weights"
        )
    own = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
    fresh = how.weights is None
    made = backbones.create(
        how.backbone or backbones.BUNDLED,
        weights=how.weights,
        arguments=how.arguments,
        random_weights=fresh,
        seed=how.seed,
        precision="fp32",
        device=how.device,
        transform={"input_size": size or None, **(own if fresh else {})},
    )
    if not isinstance(made, Backbone) or not backbones.is_tunable(made.spec):
        raise BackboneError(f"{made.name} is not a network of timm, and only these can be pretrained; choose one")
    if made.transform.input_size[0] != 3:
        raise PretrainingError(f"{made.name} takes {made.transform.input_size[0]} channels; pretraining needs 3")
    return made


def _gathered(
    run: _Run, manifest: Manifest, data: tuple[Path, str], network: Backbone, workers: int | None, limit: int | None
) -> Gathered:
    """What is learned from; of several processes the first one asks the teacher, and the others read its store."""
    from featurepipe.pretraining import OBJECTIVES, gather
    from featurepipe.pretraining.pictures import SHARE

    kind = OBJECTIVES[run.how.objective]
    options: dict[str, Any] = {"limit": limit, "workers": workers, "listener": run.listener}
    if run.peers.rank:
        run.peers.share(None)
    if limit is None and run.peers.world > 1 and (free := available()) is not None:
        options["limit"] = int(SHARE * free / run.peers.world)  # each process holds all pictures
    made = gather(kind, run.how, manifest, data, network, run.kept.folder, **options)
    if not run.peers.rank:
        run.peers.share(None)
    return made


def _train(run: _Run, gathered: Gathered, network: Backbone) -> tuple[Course, Plan, Pupil]:
    from featurepipe.pretraining import Plan, Pupil, ViewBatches, plans, probed

    pictures, pretext, how = gathered.pictures, gathered.pretext, run.how
    images = len(pictures.learned)
    sources = _sources(how, gathered)
    recipe = plans.recipe_of(how, network.device)
    pupil = Pupil(network, pretext, recipe)

    def batches(length: int) -> ViewBatches:
        return ViewBatches(pictures, pretext, recipe, network.device, length, run.peers)

    earlier = run.peers.first(lambda: run.begin(sources))
    if "plan" in earlier:
        plan = Plan(**earlier["plan"])
    elif how.minutes is None:
        plan = plans.of_epochs(how, images)
    else:
        length = plans.whole_batches(images, how.batch_size)
        plan = plans.timed(how, pupil, batches(length), images, recipe, run.peers)
    recipe = plans.recipe_of(how, network.device, plan.epochs)
    decided = {"options": run.options(), "plan": asdict(plan), "sources": sources}
    if not earlier and not run.peers.rank:
        run.kept.tell({**decided, "processes": run.peers.world})
    run.listener.note(
        f"{how.objective}: {network.name} on {network.device}, {images:,} images, {plan.epochs} "
        f"epoch{'s' * (plan.epochs != 1)} of "
        f"{plan.length:,}"
    )
    outcome = finetuning.tune(
        pupil,
        batches(plan.length),
        lambda: probed(pictures, pretext.size, network.device, run.peers),
        recipe,
        objective=pretext,
        every=how.every if len(pictures.measured) else 0,
        identity=decided,
        checkpoint=run.kept.checkpoint,
        strict=how.resume,
        listener=run.listener,
        peers=run.peers,
    )
    return outcome, plan, pupil


def _sources(how: PretrainOptions, gathered: Gathered) -> dict[str, str]:
    """What a run learns from, in words, to a digest of its content."""
    start = {} if how.weights is None else {"weights": sha256_file(how.weights)}
    return {"images": _digest(gathered), **gathered.pretext.sources(), **start}


def _digest(gathered: Gathered) -> str:
    """sha256 of what is learned from and probed."""
    pictures = gathered.pictures
    parts = (pictures.learned, pictures.fitted, pictures.measured, pictures.classes)
    return sha256_json([list(pictures.digests), *(part.tolist() for part in parts)])


def _write(
    run: _Run,
    gathered: Gathered,
    network: Backbone,
    pupil: Pupil,
    outcome: Course,
    plan: Plan,
    data: Path,
    seconds: float,
) -> dict[str, Any]:
    """The backbone file, the figures, the page and the picture."""
    from featurepipe.pretraining import files
    from featurepipe.pretraining.curves import draw

    state, name = pupil.backbone_state(outcome.state), run.path.stem
    card = _card(run, gathered, network, outcome, plan, data, seconds)
    header = files.header_of(network, state, name, card)
    try:
        files.save(run.path, state, header)
    except OutputError as error:
        why, _, _ = str(error).partition("; ")
        raise OutputError(
            f"{why}; make room or give the same command with --resume; {run.kept.checkpoint} keeps the training"
        ) from error
    timed = [row for row in outcome.curve[1:] if "knn" not in row] or outcome.curve[1:]  # probes take time, too
    spent = sum(row["seconds"] for row in timed)
    result: dict[str, Any] = {
        "backbone": str(run.path),
        "name": name,
        "objective": run.how.objective,
        "curve": outcome.curve,
        "card": card,
        "stopped": outcome.stopped,
        "images_per_second": round(plan.length * len(timed) / spent, 1) if spent else None,
        "seconds": round(seconds, 3),
    }
    page, figures = run.path.with_suffix(".html"), run.path.with_suffix(".json")
    result |= {"page": str(page), "json": str(figures), "png": draw(result, run.path.with_suffix(".png"))}
    write_text(page, pretraining_page(result))
    write_text(figures, json.dumps(result, indent=1, allow_nan=False) + "\n")
    if outcome.finished:
        run.kept.clear()
    return result


def _check_finite(pupil: Pupil, gathered: Gathered, outcome: Course, path: Path) -> None:
    """Refuse to write a network that gives no numbers: its loss was measured before the last step."""
    from featurepipe.pretraining.augmentations import resized

    pictures = gathered.pictures
    pupil.load(outcome.state)
    pixels = resized(pictures.take(pictures.learned[:SHOWN], pupil.device), gathered.pretext.size)
    if not bool(pupil.predict(pixels).isfinite().all()):
        raise TrainingDiverged(
            f"after epoch {outcome.best_epoch} the embeddings are not finite, so {path} was not written; try a lower "
            "lr with --force, or precision fp32"
        )


def _card(
    run: _Run, gathered: Gathered, network: Backbone, outcome: Course, plan: Plan, data: Path, seconds: float
) -> dict[str, Any]:
    """What the file says of its pretraining."""
    from featurepipe.extraction import versions

    pictures, kept = gathered.pictures, outcome.curve[outcome.best_epoch]
    probe = {key: kept[key] for key in ("knn", "linear", "n") if key in kept}
    return {
        "objective": run.how.objective,
        "architecture": network.spec["architecture"],
        "data": {
            "name": data.resolve().name,
            "images": len(pictures.learned),
            "held_back": len(pictures.measured),
            "sha256": _digest(gathered),
            "left_out": len(gathered.left_out),
        },
        "epochs": len(outcome.curve) - 1,
        "planned_epochs": plan.epochs,
        "images_per_epoch": plan.length,
        "kept_epoch": outcome.best_epoch,
        "train_loss": kept["train_loss"],
        "stopped": outcome.stopped,
        "seed": run.how.seed,
        "probe": probe if all(map(math.isfinite, probe.values())) else {},
        "options": run.options(),
        "licence": run.how.licence or UNSTATED,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
