"""The stage `pretrain`: pictures → a backbone file."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe import backbones, finetuning
from featurepipe.backbones import Backbone
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError, OutputError, PretrainingError
from featurepipe.files import write_text
from featurepipe.finetuning import Course, Peers, checkpoints
from featurepipe.listeners import BARS, SILENT, Listener
from featurepipe.manifests import Manifest
from featurepipe.memory import parse_size
from featurepipe.reports.pretexts import pretraining_page
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import PretrainOptions, TableOptions

if TYPE_CHECKING:
    from featurepipe.pretraining import Gathered, Plan, Pupil

CHECKPOINT, RUN = "checkpoint.pt", "run.json"
CLIP_SECONDS = 4.0  # of videos that are not cut by the caller: about as long as those of Owens et al.
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
    not used at all. If images have labels, those of ``val`` are not learned from: probes are measured on them. Where
    there is no ``val``, up to a fifth of the images is held back for that.

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
        Also replace a file that featurepipe did not write, and start again where an earlier run was interrupted.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``backbone, name, objective, fingerprint, curve`` (per epoch: ``epoch, train_loss, lr, seconds``, and ``knn,
        linear, n`` where probes were measured), ``card``, ``page, png`` (None without matplotlib), ``json``,
        ``stopped, images_per_second, seconds``. In all but the first of several processes, ``stopped`` alone.

    Raises
    ------
    PretrainingError
        Data, options or an objective that do not fit, or an earlier run that must be resumed or replaced.
    TrainingDiverged, OutOfMemory
        The loss is not finite, or memory runs out with a single image; the best epoch so far has been written.
    """
    started = time.perf_counter()
    # here, as they load torch, which `import featurepipe.stages` does not
    from featurepipe.pretraining import OBJECTIVES, files, plans

    path = Path(output)
    if path.suffix.lower() != ".safetensors":
        raise OutputError(f"{path} must end in .safetensors, as backbone files do; give another name with -o")
    if how.objective not in OBJECTIVES:
        raise PretrainingError(f"no objective is called {how.objective!r}; use {', '.join(OBJECTIVES)}")
    plans.check(how)
    given = [data, how.weights, how.teacher_weights]
    files.check_output(path, given, force=force)
    with finetuning.joined(how.device) as (peers, device):
        listener = SILENT if peers.rank else listener
        work = path.with_suffix(".pretraining")
        run = _Run(replace(how, device=device), path, work, peers, listener)
        if not peers.rank:
            run.check_earlier(force=force)
        manifest = clips.read(data, _clipped(table, data, how), listener, own=OBJECTIVES[how.objective].columns)
        network = _network(run.how)
        source = Path(data), table.path_column or "path"
        gathered = _gathered(run, manifest, source, network, workers, parse_size(memory))
        outcome, plan, pupil = _train(run, gathered, network)
        if peers.rank:
            return {"stopped": outcome.stopped}
        result = _write(run, gathered, network, pupil, outcome, plan, Path(data), time.perf_counter() - started)
    if outcome.error is not None:
        raise type(outcome.error)(f"{outcome.error}; {path} holds the best epoch so far")
    return result


@dataclass(frozen=True)
class _Run:
    """Who trains what, where."""

    how: PretrainOptions
    path: Path
    work: Path
    peers: Peers
    listener: Listener

    @property
    def checkpoint(self) -> Path:
        return self.work / CHECKPOINT

    def options(self) -> dict[str, Any]:
        """What decides the run, as JSON."""
        told = {key: value for key, value in asdict(self.how).items() if key not in LOOSE}
        return json.loads(json.dumps(told, default=str))

    def check_earlier(self, *, force: bool) -> None:
        """Refuse to replace an earlier run that could be resumed, or to resume another one."""
        if not self.checkpoint.is_file():
            if self.how.resume:
                self.listener.note(f"note: {self.work} holds nothing to resume; training starts")
            return
        if not self.how.resume:
            if force:
                checkpoints.remove(self.checkpoint)
                return
            raise PretrainingError(
                f"{self.work} holds a run that was interrupted; add --resume to continue it, or --force to start again"
            )
        before = self.plan_told().get("options", {})
        for key, value in self.options().items():
            if key in before and before[key] != value:
                raise PretrainingError(
                    f"{self.work} holds a run with another {key} ({before[key]!r}, not {value!r}); give the same "
                    "options to resume it, or --force without --resume to start again"
                )

    def plan_told(self) -> dict[str, Any]:
        """What an earlier run wrote of itself."""
        file = self.work / RUN
        try:
            told = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise PretrainingError(f"{file} is damaged ({error}); start again with --force") from error
        return told if isinstance(told, dict) else {}

    def tell_plan(self, plan: Plan, data: str) -> None:
        write_text(self.work / RUN, json.dumps({"options": self.options(), "plan": asdict(plan), "data": data}) + "\n")


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

    kind = OBJECTIVES[run.how.objective]
    scratch = run.work if run.peers.world == 1 else run.work / f"process-{run.peers.rank}"
    folders = run.work, scratch
    options: dict[str, Any] = {"limit": limit, "workers": workers, "listener": run.listener}
    if run.peers.rank:
        run.peers.share(None)
    made = gather(kind, run.how, manifest, data, network, folders, **options)
    if not run.peers.rank:
        run.peers.share(None)
    return made


def _train(run: _Run, gathered: Gathered, network: Backbone) -> tuple[Course, Plan, Pupil]:
    from featurepipe.pretraining import Plan, Pupil, ViewBatches, plans, probed

    pictures, pretext, how = gathered.pictures, gathered.pretext, run.how
    images = len(pictures.learned)
    digest = _digest(gathered)
    recipe = plans.recipe_of(how, network.device)
    pupil = Pupil(network, pretext, recipe)

    def batches(length: int) -> ViewBatches:
        return ViewBatches(pictures, pretext, recipe, network.device, length, run.peers)

    earlier = run.peers.share(run.plan_told() if how.resume and not run.peers.rank else None) or {}
    if earlier and earlier.get("data") != digest and run.checkpoint.is_file():
        raise PretrainingError(
            f"{run.work} holds a run on other images than these; restore them to resume it, or start again with --force"
        )
    if "plan" in earlier:
        plan = Plan(**earlier["plan"])
    elif how.minutes is None:
        plan = plans.of_epochs(how, images)
    else:
        length = plans.whole_batches(images, how.batch_size)
        plan = plans.timed(how, pupil, batches(length), images, recipe, run.peers)
    recipe = plans.recipe_of(how, network.device, plan.epochs)
    if not run.peers.rank:
        run.work.mkdir(parents=True, exist_ok=True)
        run.tell_plan(plan, digest)
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
        identity={"data": digest, "options": run.options(), "plan": asdict(plan)},
        checkpoint=run.checkpoint,
        listener=run.listener,
        peers=run.peers,
    )
    return outcome, plan, pupil


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
            f"{why}; make room or give the same command with --resume; {run.checkpoint} keeps the training"
        ) from error
    spent = sum(row["seconds"] for row in outcome.curve[1:])
    result: dict[str, Any] = {
        "backbone": str(run.path),
        "name": name,
        "objective": run.how.objective,
        "curve": outcome.curve,
        "card": card,
        "stopped": outcome.stopped,
        "images_per_second": round(plan.length * (len(outcome.curve) - 1) / spent, 1) if spent else None,
        "seconds": round(seconds, 3),
    }
    page, figures = run.path.with_suffix(".html"), run.path.with_suffix(".json")
    result |= {"page": str(page), "json": str(figures), "png": draw(result, run.path.with_suffix(".png"))}
    write_text(page, pretraining_page(result))
    write_text(figures, json.dumps(result, indent=1, allow_nan=False) + "\n")
    if outcome.finished:
        checkpoints.remove(run.checkpoint)
        (run.work / RUN).unlink(missing_ok=True)
        (run.work / "pixels.npy").unlink(missing_ok=True)
        if not any(run.work.iterdir()):  # a teacher's store stays, and serves again
            run.work.rmdir()
    return result


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
