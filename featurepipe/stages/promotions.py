"""The stage `finetune`: a probe is promoted to a tuned network, if that is expected to pay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import advice, backbones, finetuning, manifests, models
from featurepipe.backbones import Backbone
from featurepipe.cards import Epoch, Refit, Scratch
from featurepipe.errors import FinetuningError, OutputError
from featurepipe.finetuning import Cached, Examples, Head, Peers, Promoted, Recipe, checkpoints, records
from featurepipe.finetuning.records import Later
from featurepipe.finetuning.starts import Start, begin, check_classes
from featurepipe.finetuning.verdicts import Verdict, judge, measure, rate, untuned
from featurepipe.listeners import BARS, SILENT, Listener, Quiet
from featurepipe.memory import parse_size
from featurepipe.models.candidates import divide, find
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages.advice import advise
from featurepipe.stages.extractions import extract
from featurepipe.stores import Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import EntryOptions, PromotionOptions
from featurepipe.vocabulary.names import SWITCH

ACTIVATIONS = "activations"  # in the store's folder, a store by itself
REFIT, SCRATCH = "refit.pt", "scratch.pt"


@dataclass(frozen=True)
class Task:
    """What each of several processes needs to tune the same network.

    Attributes
    ----------
    spec, source : mapping
        Spec and source of the backbone.
    name : str
        Name of the tuned backbone.
    head : Head
    train, validation : Examples
    recipe : Recipe
    checkpoint : Path
    """

    spec: Mapping[str, Any]
    source: Mapping[str, Any]
    name: str
    head: Head
    train: Examples
    validation: Examples
    recipe: Recipe
    checkpoint: Path


@guarded
@presented
@spread(how=PromotionOptions, recipe=Recipe)
def finetune(
    source: str | Path,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    how: PromotionOptions,
    recipe: Recipe,
    workers: int | None = None,
    memory: int | str | None = None,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Promote a probe to a tuned network, and write it as a model file that holds its backbone.

    The head starts as the probe, so before the first step the network classifies as the probe does (LP-FT). The last
    epoch is kept; if training ends early, the best one on validation data. The file holds the tuned network if it is
    expected to be better than the probe by a point; otherwise it holds the probe. Validation data, and what tuning
    gained on other data, decide that (`featurepipe.finetuning.pays`). A network that is kept is trained once more, also
    on the validation data; its validation figures are those from before.

    Parameters
    ----------
    source : path
        A store, or a model file that `featurepipe.probe` wrote.
    data : path, optional
        Folder or table of the images; by default those that the store was made of. Needed for a model file. The
        embeddings of other images than the store's go into ``NAME.tuning/store`` next to the output.
    output : path, optional
        Model file; by default ``tuned.safetensors`` in the backbone's folder of the store, or
        ``NAME-tuned.safetensors`` next to the model file.
    how
    recipe
    workers : int, optional
        Threads that decode; one per core by default.
    memory : int or str, optional
        As for `featurepipe.probe`.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, backbone, fingerprint, kind, promoted, tune, top1`` and all of the model file's card: ``finetuning``
        (recipe, curve, ``best_epoch``: the one that was kept, ``stopped``, the probe's figures, ``refit``; its
        ``validation`` says the ``expected_gain`` over the probe), ``val``, ``test``, ``splits``, …; and ``seconds``.
        Accuracies are fractions. In all but the first of several processes, nothing but ``stopped``, if that is
        ``interrupted``.

    Raises
    ------
    FinetuningError
        The recipe, kind of probe, depth or network cannot be tuned.
    TrainingDiverged, OutOfMemory
        The loss is not finite, or memory runs out with a single image; the best epoch so far has been written.
    ManifestError, StoreError, ProbeError
        As for `featurepipe.probe`.
    """
    started = time.perf_counter()
    if how.cache not in SWITCH:
        raise FinetuningError(f"cache {how.cache!r} is unknown; use {', '.join(SWITCH)}")
    recipe.check()
    plan, limit = recipe, parse_size(memory)
    with finetuning.joined(how.device) as (peers, device), ExitStack() as claims:
        if peers.rank:  # the first process prepares, writes and talks; the others only learn
            stopped = None
            while (task := peers.share(None)) is not None:
                stopped = _tune(task, None, device, workers, peers, SILENT).outcome.stopped
            return {"stopped": stopped} if stopped == finetuning.INTERRUPTED else {}
        if not Store.is_store(source) and models.find(source):
            source = models.locate(source)
        path = _output(source, output, how.backbone)
        models.check_output(path, [source, data, how.weights], force=force)  # before anything is embedded
        work = path.with_suffix(".tuning")
        options: dict[str, Any] = {"weights": how.weights, "trust": how.trust, "device": device, "note": listener.note}
        store, extractor, loaded = _open(source, data, how.backbone, options, plan.tune, workers, work, listener)
        models.check_output(path, [extractor.source["weights"]], force=force)
        found = divide(find(store, path, EntryOptions(backbone=extractor, device=device)), seed=recipe.seed)
        advised = None
        if plan.tune == finetuning.AUTO:
            advised = advise(store, backbone=extractor, seed=recipe.seed, listener=listener)
            listener.note("\n  - ".join([f"advice: {advice.in_words(advised)}", *advised["reasons"]]))
            plan = replace(plan, tune=advised["tune"] or finetuning.HEAD)
        start = begin(found, loaded, plan, limit, listener)
        said: dict[str, Any] = {"advised": advised, "workers": workers, "listener": listener, "started": started}
        if advised is not None and advised["tune"] is None:
            peers.share(None)
            nothing = untuned(start, extractor)
            kept = Verdict(False, start.figures, coverage=start.probe.coverage)
            return _told(_write(path, start, plan, extractor, nothing, kept, **said), listener)
        task = _task(start, extractor, plan, work / "checkpoint.pt")
        cached = _cached(start, task, how.cache, peers, workers, claims, listener)
        made = _tune(peers.share(task), extractor, device, workers, peers, listener, cached)
        verdict, finished = judge(start, plan, made, workers, listener), made.outcome.finished
        refit = scratch = None
        again = finished and verdict.promoted and plan.refits
        if again or (how.from_scratch and finished):  # which may take as long again, and go wrong
            with _kept(task.checkpoint):
                _write(path, start, plan, extractor, made, verdict, **said)
        if again:
            listener.note(f"training once more, on the {len(start.validation)} held-back images too")
            made, refit = _refit(task, made, extractor, how.cache, start, device, workers, peers, claims, listener)
            finished = refit.stopped != finetuning.INTERRUPTED
        if how.from_scratch and finished:
            scratch = _from_scratch(start, task, device, workers, peers, listener)
            finished = scratch.stopped != finetuning.INTERRUPTED
        peers.share(None)
        with _kept(task.checkpoint):
            result = _write(path, start, plan, extractor, made, verdict, Later(refit, scratch), **said)
        _told(result, listener)
        if made.outcome.error is not None:
            raise type(made.outcome.error)(f"{made.outcome.error}; {path} holds the best epoch so far")
        if finished:
            for checkpoint in (task.checkpoint, *map(task.checkpoint.with_name, (REFIT, SCRATCH))):
                checkpoints.remove(checkpoint)
            with suppress(OSError):  # it may hold a store or activations, which serve again
                work.rmdir()
        return result


def _write(
    path: Path,
    start: Start,
    recipe: Recipe,
    extractor: Backbone,
    made: Promoted,
    verdict: Verdict,
    later: Later = Later(),  # noqa: B008  # frozen
    *,
    advised: Mapping[str, Any] | None,
    workers: int | None,
    listener: Listener,
    started: float,
) -> dict[str, Any]:
    """Write the model file: the tuned network if it was kept, else the probe; and say all about it."""
    rating, promoted, probe = rate(start, made, workers, listener), verdict.promoted, start.probe
    seconds = round(time.perf_counter() - started, 3)
    card = records.card(start, recipe, made, verdict, rating, later, advised=advised, seconds=seconds)
    backbone = made.backbone if promoted else extractor
    tuned = {"name": backbone.name, "weights": str(path.resolve()), "random_seed": None}
    identity = {"name": backbone.name, "fingerprint": backbone.fingerprint, "spec": backbone.spec}
    model = models.Model(
        kind="logistic" if promoted else probe.kind,
        estimator=made.estimator if promoted else probe.estimator,
        temperature=made.temperature if promoted else probe.temperature,
        backbone={**identity, "source": tuned if promoted else dict(start.found.origin)},
        seen=np.concatenate([start.seen, models.digest_keys(start.parts.learned.digests)]),
        card=card,
    )
    models.save(path, model, module=backbone.module)
    return {
        "model": str(path),
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "kind": model.kind,
        "promoted": promoted,
        "tune": recipe.tune,
        "top1": card.figures.top1,
        **card.to_json(),
        "seconds": round(time.perf_counter() - started, 3),
    }


@contextmanager
def _kept(checkpoint: Path) -> Iterator[None]:
    """Say of a model file that cannot be written what is left of the training, and what to do."""
    try:
        yield
    except OutputError as error:
        why, _, _ = str(error).partition("; ")
        left = f"{checkpoint} keeps the training; run the same command again to go on from there"
        if not checkpoint.is_file():
            left = "no checkpoint could be kept either, so the same command starts the training again"
        raise OutputError(f"{why}; make room or give another place with -o; {left}") from error


def _told(result: dict[str, Any], listener: Listener) -> dict[str, Any]:
    """A result whose notes have been said, once, however often the file was written."""
    for note in result["notes"]:
        listener.note(f"note: {note}")
    return result


def _output(source: str | Path, output: str | Path | None, name: str | None) -> Path:
    """Where the model file goes."""
    if output is not None:
        path = Path(output)
    elif Store.is_store(source):
        path = Store.open(source).choose(name).folder / "tuned.safetensors"
    else:
        path = Path(source).with_name(f"{Path(source).stem}-tuned.safetensors")
    models.check_suffix(path)
    return path


def _open(
    source: str | Path,
    data: str | Path | None,
    name: str | None,
    options: Mapping[str, Any],
    tune: str,
    workers: int | None,
    work: Path,
    listener: Listener,
) -> tuple[Path, Backbone, models.Model | None]:
    """A store with the embeddings of the images, their backbone, and the model that is promoted, if one is given."""
    loaded = None
    if Store.is_store(source):
        entry = Store.open(source).choose(name)
        finetuning.check_family(entry.name, entry.spec)
        extractor = backbones.recreate(entry.spec, entry.provenance["source"], who=str(source), **options)
    elif Path(source).is_dir() or not Path(source).exists():
        raise FinetuningError(
            f"{source} is neither a store nor a model file; make a store with: featurepipe extract {source}"
        )
    else:
        loaded = models.load_of_samples(source)
        models.check_single(loaded, source, "fine-tuning")
        if loaded.kind not in finetuning.LINEAR:
            raise FinetuningError(
                f"{source} is a model of kind {loaded.kind}, which has no linear head for one class per image; "
                f"promote one of {', '.join(finetuning.LINEAR)}"
            )
        if data is None:
            raise FinetuningError(f"{source} holds no images; give the folder, table or store that it is to learn from")
        finetuning.check_family(loaded.backbone["name"], loaded.backbone["spec"])
        extractor = models.open_backbone(loaded, source, **options)
        models.check_width(loaded, extractor.width, source)
    network = finetuning.check_tunable(extractor, tune)  # before anything is embedded
    if data is None or Store.is_store(data):
        return Path(data or source), network, loaded
    manifest = manifests.read_aloud(data, listener)
    own = loaded is None and Store.open(source).is_of(manifest.source)
    store = Path(source) if own else work / "store"  # the user's store goes on to describe its own images
    manifests.check_labels(manifest.samples)  # before anything is embedded
    check_classes(loaded, {sample.label for sample in manifest.samples})
    extract(manifest, store, backbone=network, workers=workers, listener=listener)
    return store, network, loaded


def _task(start: Start, extractor: Backbone, recipe: Recipe, checkpoint: Path) -> Task:
    root = start.found.store.root
    assert root is not None  # a store of rows has one
    name = f"{start.found.entry.name} tuned on {root.name}"
    both = start.samples(start.train), start.samples(start.validation)
    return Task(extractor.spec, extractor.source, name, start.head, *both, recipe, checkpoint)


def _cached(
    start: Start, task: Task, cache: str, peers: Peers, workers: int | None, claims: ExitStack, listener: Listener
) -> Cached | None:
    """What makes training batches of cached activations, where that is wanted and can be.

    They stay for as long as `claims` is open.
    """
    why = finetuning.why_not(task.recipe, task.spec["precision"], peers)
    if cache == "off" or (cache == "auto" and why is not None):
        return None
    if why is not None:
        raise FinetuningError(f"activations cannot be cached: {why}; leave out --cache on")
    store = start.found.store
    options: dict[str, Any] = {
        "workers": workers,
        "listener": listener,
        "checkpoint": task.checkpoint,
    }

    def made(backbone: Backbone) -> finetuning.Cache | None:
        parts, rows, where = (task.train, task.validation, task.recipe), store.rows(), store.source
        try:
            kept = finetuning.make_cache(backbone, *parts, rows, where, store.path / ACTIVATIONS, **options)
        except (FinetuningError, OSError) as error:  # StoreError is one; and folders that cannot be written
            if cache == "on":
                raise
            if task.checkpoint.is_file():  # of a run with a cache, which another one would begin anew
                raise FinetuningError(
                    f"{error}; try again later, or start again without a cache: --cache off"
                ) from error
            listener.note(f"note: {error}; trained without a cache")
            return None
        claims.callback(kept.release)
        return kept

    return made


def _tune(
    task: Task,
    extractor: Backbone | None,
    device: str,
    workers: int | None,
    peers: Peers,
    listener: Listener,
    cached: Cached | None = None,
) -> Promoted:
    """Tune, together with all other processes; the first one has told them the task."""
    if extractor is None:
        made = backbones.recreate(task.spec, task.source, device=device, trust=True)  # as the first process has
        extractor = finetuning.check_tunable(made, task.recipe.tune)
    return finetuning.promote(
        extractor,
        task.head,
        task.train,
        task.validation,
        task.recipe,
        name=task.name,
        cached=cached,
        checkpoint=task.checkpoint,
        workers=workers,
        peers=peers,
        listener=listener,
    )


def _refit(
    task: Task,
    made: Promoted,
    extractor: Backbone,
    cache: str,
    start: Start,
    device: str,
    workers: int | None,
    peers: Peers,
    claims: ExitStack,
    listener: Listener,
) -> tuple[Promoted, Refit]:
    """Train the network that is kept once more, on the held-back images too; and what the card says of that.

    Where that is interrupted or fails, the network that was judged stays.
    """
    began = time.perf_counter()
    recipe = finetuning.refit_recipe(task.recipe, len(task.train))
    checkpoint = task.checkpoint.with_name(REFIT)
    task = replace(task, train=task.train + task.validation, recipe=recipe, checkpoint=checkpoint)
    cached = _cached(start, task, cache, peers, workers, claims, listener)
    again = _tune(peers.share(task), extractor, device, workers, peers, Quiet(listener), cached)
    last = again.outcome.curve[-1]
    told = Refit(
        images=len(task.train),
        epochs=last["epoch"],
        train_loss=last["train_loss"],
        stopped=again.outcome.stopped,
        seconds=round(time.perf_counter() - began, 3),
    )
    if again.outcome.error is not None:
        listener.note(f"note: training on all images failed, so the network before it is kept: {again.outcome.error}")
    return finetuning.refitted(made, again) if again.outcome.finished else made, told


def _from_scratch(
    start: Start, task: Task, device: str, workers: int | None, peers: Peers, listener: Listener
) -> Scratch:
    """The same network from random weights under the same recipe, except for what protects pretrained weights."""
    name = start.found.entry.name
    untrained = backbones.twin(task.spec, name, seed=task.recipe.seed, device=device, trust=True)
    twin = finetuning.check_tunable(untrained, finetuning.ALL)
    recipe = replace(
        task.recipe,
        tune="all",
        head=finetuning.RANDOM,
        head_epochs=0,
        layer_decay=1.0,
        batch_norm="train",
        l2_sp=0.0,
        patience=0,
    )
    weight, bias = finetuning.random_head(len(task.head.weight), task.head.weight.shape[1], recipe.seed)
    head = replace(task.head, weight=weight, bias=bias)
    began, checkpoint = time.perf_counter(), task.checkpoint.with_name(SCRATCH)
    other: dict[str, Any] = {"spec": twin.spec, "source": twin.source, "name": twin.name, "checkpoint": checkpoint}
    task = replace(task, head=head, recipe=recipe, **other)
    listener.note(f"the same from scratch: {twin.name}")
    made = _tune(peers.share(task), twin, device, workers, peers, listener)
    if made.outcome.error is not None:
        listener.note(f"from scratch: {made.outcome.error}")
    seconds = time.perf_counter() - began
    report = start.parts.report
    top1 = measure(made, start.samples(report), report, workers, listener).figures["top1"]
    return Scratch(
        curve=[Epoch.of_json(one) for one in made.outcome.curve],
        best_epoch=made.outcome.best_epoch,
        stopped=made.outcome.stopped,
        top1=top1,
        seconds=round(seconds, 3),
    )
