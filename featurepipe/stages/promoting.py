"""The stage `finetune`: a probe is promoted to a tuned network, if validation data say that it pays."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, extraction, finetuning, manifests, models, probes
from featurepipe.backbones import Backbone
from featurepipe.errors import FinetuningError, StoreError
from featurepipe.finetuning import Cached, Head, Peers, Promoted, Recipe, Samples
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.advising import advise
from featurepipe.stages.extracting import extract
from featurepipe.stages.holding import hold, parse_size
from featurepipe.stages.listening import SILENT, Listener
from featurepipe.stages.preparing import Parts, Prepared, divide, find, sizes
from featurepipe.stages.probing import fit_parts, held_notes
from featurepipe.stores import Pending, Store

FIGURES = ("top1", "log_loss", "n")
CACHES = ("auto", "on", "off")
ACTIVATIONS = "activations"  # in the store's folder, a store by itself
SCRATCH = "scratch.pt"
SCRATCH_RATE = 10.0  # times the learning rate: random weights learn at the usual recipes' rates


@dataclass(frozen=True)
class Start:
    """What tuning starts from, and what it has to beat.

    Attributes
    ----------
    found : Prepared
    parts : Parts
        Its rows with their embeddings.
    train, validation : FeatureMatrix
        What is learned from, and what is validated on: no row of them is reported.
    validated_on : str
    probe : Probe
        Fitted on all rows but those that are reported; it stands if tuning does not pay.
    head : Head
        The probe, fitted without the validation rows.
    figures : dict
        Of the probe without the validation rows, on their embeddings.
    seen : ndarray of uint64
        Contents that the promoted model has seen; see `featurepipe.models.Model`.
    notes : list of str
    """

    found: Prepared
    parts: Parts
    train: FeatureMatrix
    validation: FeatureMatrix
    validated_on: str
    probe: probes.Probe
    head: Head
    figures: dict[str, Any]
    seen: np.ndarray
    notes: list[str]

    @cached_property
    def files(self) -> dict[str, Path]:
        """Content digest → file."""
        store = self.found.store
        return {row.digest: store.root / row.sample.path for row in store.rows() if row.digest}

    def samples(self, part: FeatureMatrix) -> Samples:
        """Rows as images and class numbers."""
        images = [Pending(digest, self.files[digest]) for digest in part.digests]
        return Samples(images, np.searchsorted(self.head.classes, part.y).astype(np.int64))


@dataclass(frozen=True)
class Task:
    """What each of several processes needs to tune the same network.

    Attributes
    ----------
    spec, source : mapping
        Of the backbone.
    name : str
        Of what becomes of it.
    head : Head
    train, validation : Samples
    recipe : Recipe
    checkpoint : Path
    """

    spec: Mapping[str, Any]
    source: Mapping[str, Any]
    name: str
    head: Head
    train: Samples
    validation: Samples
    recipe: Recipe
    checkpoint: Path


def finetune(
    source: str | Path,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    backbone: str | None = None,
    weights: str | Path | None = None,
    from_scratch: bool = False,
    cache: str = "auto",
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    memory: int | str | None = None,
    listener: Listener = SILENT,
    **recipe: Any,
) -> dict[str, Any]:
    """Promote a probe to a tuned network, and write it as a model file that carries its backbone.

    The head starts as the probe, so that before the first step the network classifies as the probe does (LP-FT). After
    every epoch it is measured on validation data, and the epoch that is kept is chosen as C is; if that is the very
    start, the file holds the probe.

    Parameters
    ----------
    source : path
        A store, or a model file that `featurepipe.probe` wrote.
    data : path, optional
        Folder or table of the images; by default those that the store was made of. Needed for a model file.
    output : path, optional
        Model file; by default ``tuned.safetensors`` in the store, or ``NAME-tuned.safetensors`` beside the model file.
    backbone : str, optional
        Which backbone of the store, if it holds several.
    weights : path, optional
        Where the backbone's weights are now, if they have moved.
    from_scratch : bool
        Also train the same network from random weights with the same recipe, but for what pretrained weights are
        spared: ten times the learning rate, no layer-wise decay, batch norms that learn, no early end. Its curve
        and figures stand beside the tuned network's.
    cache : {'auto', 'on', 'off'}
        Whether activations of the frozen bottom are cached, in ``activations/`` of the store: ``auto`` where a part of
        the network is frozen and the recipe lets it.
    seed : int
        Of splits, where they have to be made, and of the recipe.
    device : str
    workers : int, optional
        Threads that decode; one per core by default.
    memory : int or str, optional
        As for `featurepipe.probe`.
    listener : Listener
    **recipe
        The fields of `featurepipe.finetuning.Recipe`: ``tune, epochs, lr, augment``, …; with ``tune="auto"`` the depth
        is what `advise` says, and where that is a probe, nothing is tuned.

    Returns
    -------
    dict
        ``model, backbone, fingerprint, kind, promoted, tune, top1`` and all of the model file's card: ``finetuning``
        (recipe, curve, ``best_epoch``, ``stopped``, the probe's figures), ``val``, ``test``, ``splits``, …; and
        ``seconds``. Accuracies are fractions.

    Raises
    ------
    FinetuningError
        A recipe, kind of probe, depth or network that cannot be tuned.
    TrainingDiverged, OutOfMemory
        A loss that is not finite, or no memory for a single image; the best epoch until then has been written.
    ManifestError, StoreError, ProbeError
        As for `featurepipe.probe`.
    """
    started = time.perf_counter()
    if cache not in CACHES:
        raise FinetuningError(f"cache {cache!r} is unknown; use {', '.join(CACHES)}")
    plan, limit = _recipe(recipe, seed), parse_size(memory)
    peers, device = finetuning.join(device)
    if peers.rank:  # the first process prepares, writes and talks; the others only learn
        while (task := peers.share(None)) is not None:
            _tune(task, None, device, workers, peers, SILENT)
        return {}
    path = _output(source, output)
    work = path.with_suffix(".tuning")
    store, extractor, loaded = _open(source, data, backbone, weights, device, workers, work, listener)
    found = divide(
        find(store, path, backbone=extractor, layer=None, weights=None, include_backbone=False, device=device),
        seed=seed,
    )
    advised = None
    if plan.tune == finetuning.AUTO:
        advised = advise(store, backbone=extractor, seed=seed, listener=listener)
        listener.note(f"advice: {advised['option']}" + "".join(f"\n  {reason}" for reason in advised["reasons"]))
        plan = replace(plan, tune=advised["tune"] or finetuning.HEAD)
    begin = _start(found, loaded, plan, limit, listener)
    task = _task(begin, extractor, plan, work / "checkpoint.pt")
    if advised is not None and advised["tune"] is None:
        peers.share(None)
        return _write(
            begin, task, path, extractor, _untuned(begin, extractor), None, workers, listener, started, advised
        )
    made = _tune(peers.share(task), extractor, device, workers, peers, listener)
    finished, scratch = made.outcome.finished, None
    if from_scratch and finished:
        scratch = _from_scratch(begin, task, device, workers, peers, listener)
        finished = scratch["stopped"] != finetuning.INTERRUPTED
    peers.share(None)
    result = _write(begin, task, path, extractor, made, scratch, workers, listener, started, advised)
    if made.outcome.error is not None:
        raise type(made.outcome.error)(f"{made.outcome.error}; {path} holds what was best until then")
    if finished:
        for checkpoint in (task.checkpoint, task.checkpoint.with_name(SCRATCH)):
            checkpoint.unlink(missing_ok=True)
        with suppress(OSError):  # it may hold a store or activations, which serve again
            work.rmdir()
    return result


def _recipe(values: Mapping[str, Any], seed: int) -> Recipe:
    if unknown := values.keys() - set(finetuning.SWITCHES):
        raise TypeError(f"{unknown.pop()}: no such parameter; a recipe has {', '.join(finetuning.SWITCHES)}")
    recipe = Recipe(**{"seed": seed, **values})
    recipe.check()
    return recipe


def _output(source: str | Path, output: str | Path | None) -> Path:
    """Where the model file goes."""
    if output is None:
        here = Path(source)
        output = (
            here / "tuned.safetensors" if Store.is_store(here) else here.with_name(f"{here.stem}-tuned.safetensors")
        )
    models.check_suffix(Path(output))
    return Path(output)


def _open(
    source: str | Path,
    data: str | Path | None,
    name: str | None,
    weights: str | Path | None,
    device: str,
    workers: int | None,
    work: Path,
    listener: Listener,
) -> tuple[Path, Backbone, models.Model | None]:
    """A store with the embeddings of the images, their backbone, and the model that is promoted, if one is given."""
    loaded = None
    if Store.is_store(source):
        entry = Store.open(source).choose(name)
        extractor = backbones.recreate(entry.spec, entry.provenance["source"], weights=weights, device=device)
    else:
        loaded = models.load(source)
        if loaded.kind not in finetuning.LINEAR:
            raise FinetuningError(
                f"{source} is a {loaded.kind} model, which has no linear head for one class per image; "
                f"promote one of {', '.join(finetuning.LINEAR)}"
            )
        if data is None:
            raise FinetuningError(f"{source} holds no images; give the folder, table or store that it is to learn from")
        extractor = models.open_backbone(loaded, source, weights=weights, device=device)
    if not isinstance(extractor, Backbone):
        raise FinetuningError(f"{extractor.name} is no network, so there is nothing to tune; choose another with -b")
    if extractor.spec["layer"] != backbones.PENULTIMATE:
        raise FinetuningError(
            f"tuning starts from the penultimate embedding, not from {extractor.spec['layer']}; "
            "extract and probe without --layer"
        )
    if data is None or Store.is_store(data):
        return Path(data or source), extractor, loaded
    store = Path(source) if loaded is None else work / "store"
    samples = manifests.read(data).samples
    manifests.check_labels(samples)  # before anything is embedded
    _check_classes(loaded, {sample.label for sample in samples})
    extract(data, store, backbone=extractor, workers=workers, listener=listener)
    return store, extractor, loaded


def _check_classes(loaded: models.Model | None, labels: Collection[str | None]) -> None:
    """Refuse data that lack a class of the model's, which tuning would unlearn."""
    for label in () if loaded is None else map(str, loaded.classes.tolist()):
        if label not in labels:
            raise FinetuningError(
                f"no image shows {label!r}, which the model knows and tuning would unlearn; add some, or tune from a "
                "store of these images instead of the model"
            )


def _start(
    found: Prepared, loaded: models.Model | None, recipe: Recipe, limit: int | None, listener: Listener
) -> Start:
    """Fit the probe, and once more without what tuning will be validated on."""
    kind = "logistic" if loaded is None else loaded.kind
    found.announce(listener, f"{kind} probe")
    _check_classes(loaded, set(found.samples.y))
    parts = hold(found.entry, found.samples, kind, limit)
    train, validation, validated_on = _hold_out(parts, recipe.seed)
    class_weight = recipe.class_weight if loaded is None else loaded.card.get("class_weight")
    classes, notes, seen = np.unique(train.y), held_notes(parts), np.zeros(0, np.uint64)
    if loaded is None:
        probe = fit_parts(kind, parts, None, recipe.seed, class_weight)
    else:
        probe, seen = _own_probe(loaded, classes), loaded.seen
        notes += _seen_notes(loaded, parts)
    if loaded is not None and not loaded.has_seen(validation.digests).any():
        fitted = probe
    else:
        options = {"groups": train.digests, "class_weight": class_weight, "seed": recipe.seed}
        fitted = probes.fit(kind, train.X, train.y, value=probe.chosen, **options, keep=parts.elsewhere is None)
        if loaded is not None:
            notes.append(
                f"the model has seen images of {validated_on}; tuning starts from its probe fitted without them"
            )
    weight, bias = finetuning.linear_head(fitted.kind, fitted.estimator, fitted.temperature, classes)
    strength = probe.chosen if kind == "logistic" else 1.0  # of the other kinds it is no C
    figures = probes.evaluate(finetuning.head_estimator(weight, bias, classes, strength), validation.X, validation.y)
    if recipe.head == finetuning.RANDOM:
        weight, bias = finetuning.random_head(*weight.shape, recipe.seed)
    head = Head(weight, bias, classes, strength)
    return Start(found, parts, train, validation, validated_on, probe, head, figures, seen, notes)


def _own_probe(loaded: models.Model, classes: np.ndarray) -> probes.Probe:
    """A model's classifier as a probe for the classes of the data, which may be more than it has seen."""
    chosen = loaded.card["selection"]["chosen"]
    probe = probes.Probe(loaded.kind, loaded.estimator, loaded.temperature, chosen, loaded.card["selection"]["on"])
    if probe.classes.tolist() == classes.tolist():
        return probe
    head = finetuning.linear_head(probe.kind, probe.estimator, probe.temperature, classes)
    return replace(probe, kind="logistic", estimator=finetuning.head_estimator(*head, classes, 1.0), temperature=1.0)


def _seen_notes(loaded: models.Model, parts: Parts) -> list[str]:
    """A note where the model has learned from what is reported."""
    count = int(loaded.has_seen(parts.report.digests).sum())
    return [f"the model has seen {count} of the {parts.reported} images before: figures flatter"] if count else []


def _hold_out(parts: Parts, seed: int) -> tuple[FeatureMatrix, FeatureMatrix, str]:
    """Rows to learn from and rows to validate on: val where test is reported, else a fifth of train."""
    if parts.select is not None:
        return parts.train, parts.select, "val"
    out = np.array(manifests.hold_out(parts.train.y.tolist(), parts.train.digests.tolist(), seed=seed))
    if not out.any():
        raise FinetuningError(
            "every class has a single training image, so none can be held back to validate on; add some"
        )
    return parts.train.take(~out), parts.train.take(out), f"a fifth of train, held back here, seed {seed}"


def _task(begin: Start, extractor: Backbone, recipe: Recipe, checkpoint: Path) -> Task:
    name = f"{begin.found.entry.name} tuned on {begin.found.store.root.name}"
    both = begin.samples(begin.train), begin.samples(begin.validation)
    return Task(extractor.spec, extractor.source, name, begin.head, *both, recipe, checkpoint)


def _cached(
    begin: Start, task: Task, cache: str, peers: Peers, workers: int | None, listener: Listener
) -> Cached | None:
    """What makes training batches of cached activations, where that is wanted and can be."""
    why = finetuning.why_not(task.recipe, task.spec["precision"], peers)
    if cache == "off" or (cache == "auto" and why is not None):
        return None
    if why is not None:
        raise FinetuningError(f"activations cannot be cached: {why}; leave out --cache on")
    store, wanted = begin.found.store, set(begin.train.digests)
    rows = [row for row in store.rows() if row.digest in wanted]
    folder = store.path / ACTIVATIONS

    def made(backbone: Backbone) -> tuple[finetuning.CachedBatches, finetuning.Forward] | None:
        options = {"workers": workers, "progress": listener.progress, "note": listener.note}
        try:
            return finetuning.cached_batches(backbone, task.train, task.recipe, rows, store.root, folder, **options)
        except (FinetuningError, StoreError) as error:
            if cache == "on":
                raise
            listener.note(f"note: {error}; trained without a cache")
            return None

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
        extractor = backbones.recreate(task.spec, task.source, device=device)
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
        progress=listener.progress,
        note=listener.note,
    )


def _from_scratch(
    begin: Start, task: Task, device: str, workers: int | None, peers: Peers, listener: Listener
) -> dict[str, Any]:
    """The same network from random weights under the same recipe, but for what pretrained weights are spared."""
    twin = backbones.twin(task.spec, begin.found.entry.name, seed=task.recipe.seed, device=device)
    recipe = replace(
        task.recipe,
        tune="all",
        head=finetuning.RANDOM,
        head_epochs=0,
        lr=SCRATCH_RATE * task.recipe.peak_lr,
        layer_decay=1.0,
        batch_norm="train",
        l2_sp=0.0,
        patience=0,
    )
    weight, bias = finetuning.random_head(*task.head.weight.shape, recipe.seed)
    head = replace(task.head, weight=weight, bias=bias)
    began, checkpoint = time.perf_counter(), task.checkpoint.with_name(SCRATCH)
    other = {"spec": twin.spec, "source": twin.source, "name": twin.name, "checkpoint": checkpoint}
    task = replace(task, head=head, recipe=recipe, **other)
    listener.note(f"the same from scratch: {twin.name}")
    made = _tune(peers.share(task), twin, device, workers, peers, listener)
    if made.outcome.error is not None:
        listener.note(f"from scratch: {made.outcome.error}")
    seconds = time.perf_counter() - began
    report = begin.parts.report
    top1 = _measure(made, begin.samples(report), report, workers, listener)["top1"]
    told = {"curve": made.outcome.curve, "best_epoch": made.outcome.best_epoch, "stopped": made.outcome.stopped}
    return {**told, "top1": top1, "seconds": round(seconds, 3)}


def _pays(begin: Start, task: Task, made: Promoted) -> bool:
    """Whether the epoch that was kept is better than the probe, by the rule that chose it."""
    epoch, curve = made.outcome.best_epoch, made.outcome.curve
    if task.recipe.head == finetuning.PROBE:
        return epoch > 0
    return finetuning.better([{key: begin.figures[key] for key in FIGURES}, curve[epoch]], 0)


def _start_notes(begin: Start, task: Task, first: Mapping[str, Any]) -> list[str]:
    """A note where the network has not started where the probe stopped, but for the rounding of its precision."""
    probe, count = begin.figures["top1"], first["n"]
    if task.recipe.head != finetuning.PROBE or abs(first["top1"] - probe) <= max(0.01, 1.5 / count):
        return []
    share = f"{100 * first['top1']:.1f} % of {count} validation images right, the probe {100 * probe:.1f} %"
    return [f"before tuning the network had {share}: its embeddings are not those of the store"]


def _untuned(begin: Start, extractor: Backbone) -> Promoted:
    """What stands where advice is against tuning: the start, and not a step."""
    first = {key: begin.figures[key] for key in FIGURES}
    curve = [{"epoch": 0, "train_loss": None, "lr": None, **first, "seconds": 0.0}]
    outcome = finetuning.Outcome(curve, 0, {}, "not begun: the advice is to keep a probe")
    parameters = sum(one.numel() for one in extractor.module.parameters())
    return Promoted(extractor, None, 1.0, outcome, 0, parameters, False)


def _measure(
    made: Promoted, samples: Samples, part: FeatureMatrix, workers: int | None, listener: Listener
) -> dict[str, Any]:
    """Figures of a tuned network on rows, whose images are embedded for it as `evaluate` will."""
    memory = extraction.Memory()
    todo = list({one.digest: one for one in samples.images}.values())
    with listener.progress(f"measuring {made.backbone.name}", len(todo)) as advance:
        outcome = extraction.fill(todo, made.backbone, memory, workers=workers, progress=advance)
    kept = [digest not in outcome.rejects for digest in part.digests]
    if not all(kept):
        why = next(iter(outcome.rejects.values()))
        if not any(kept):
            raise FinetuningError(f"no image of {part.split[0]} can be read any more: {why}; put them back")
        listener.note(f"{len(kept) - sum(kept)} images cannot be read any more, and are not measured; the first: {why}")
    vectors = np.stack([memory.vectors[digest] for digest in part.digests[kept]])
    return probes.evaluate(made.estimator, vectors, part.y[kept], made.temperature)


def _write(
    begin: Start,
    task: Task,
    path: Path,
    extractor: Backbone,
    made: Promoted,
    scratch: dict[str, Any] | None,
    workers: int | None,
    listener: Listener,
    started: float,
    advised: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write the model file: the tuned network if it was kept, else the probe; and say all about it."""
    promoted = _pays(begin, task, made)
    parts, found, probe = begin.parts, begin.found, begin.probe
    of_probe = probes.evaluate(probe.estimator, parts.report.X, parts.report.y, probe.temperature)
    reported, validated, of_network = of_probe, begin.figures, None
    if made.outcome.best_epoch:
        of_network = _measure(made, begin.samples(parts.report), parts.report, workers, listener)
    if promoted:
        reported = of_network
        validated = _measure(made, task.validation, begin.validation, workers, listener)
    on = parts.reported
    card = {
        "data": {"root": str(found.store.root), "samples": len(found.samples), "classes": len(begin.head.classes)},
        "splits": sizes(found.samples.split),
        "split_source": found.split_source,
        "evaluated_on": on,
        "selection": {
            "on": probe.selected_on,
            "chosen": begin.head.strength if promoted else probe.chosen,
            "path": probe.path,
            "temperature": made.temperature if promoted else probe.temperature,
            "ece": validated["ece"],
            "ece_uncalibrated": validated["ece_uncalibrated"],
        },
        "val": reported if on == "val" else {"source": begin.validated_on, **validated},
        "test": reported if on == "test" else None,
        "baselines": {
            "majority": probes.majority(parts.train.y, parts.report.y),
            "pixels": None,
            "random_backbone": None,
        },
        "few_shot": [],
        "finetuning": _told(
            begin, task, made, of_probe, of_network, scratch, promoted, advised, time.perf_counter() - started
        ),
        "protocol": None,
        "licence": None,
        "seed": task.recipe.seed,
        "class_weight": task.recipe.class_weight,
        "notes": [*found.notes, *begin.notes, *_start_notes(begin, task, made.outcome.curve[0])],
        "versions": extraction.versions(),
        "created": extraction.now(),
    }
    for note in card["notes"]:
        listener.note(f"note: {note}")
    backbone = made.backbone if promoted else extractor
    origin = (
        {"name": backbone.name, "weights": str(path.resolve()), "random_seed": None} if promoted else dict(found.origin)
    )
    model = models.Model(
        kind="logistic" if promoted else probe.kind,
        estimator=made.estimator if promoted else probe.estimator,
        temperature=made.temperature if promoted else probe.temperature,
        backbone={"name": backbone.name, "fingerprint": backbone.fingerprint, "spec": backbone.spec, "source": origin},
        seen=np.concatenate([begin.seen, models.digest_keys(parts.learned.digests)]),
        card=card,
    )
    models.save(path, model, module=backbone.module)
    identity = {"model": str(path), "backbone": backbone.name, "fingerprint": backbone.fingerprint, "kind": model.kind}
    verdict = {"promoted": promoted, "tune": task.recipe.tune, "top1": reported["top1"]}
    return {**identity, **verdict, **card, "seconds": round(time.perf_counter() - started, 3)}


def _told(
    begin: Start,
    task: Task,
    made: Promoted,
    of_probe: Mapping[str, Any],
    of_network: Mapping[str, Any] | None,
    scratch: dict[str, Any] | None,
    promoted: bool,
    advised: Mapping[str, Any] | None,
    seconds: float,
) -> dict[str, Any]:
    """What the card says of the tuning."""
    outcome, recipe = made.outcome, task.recipe
    return {
        "promoted": promoted,
        "of": begin.found.entry.name,
        "start": "probe" if recipe.head == finetuning.PROBE else "random head",
        "tune": recipe.tune,
        "tuned_parameters": made.tuned,
        "parameters": made.parameters,
        "recipe": asdict(recipe)
        | {"epochs": recipe.epochs_for(len(task.train)), "lr": recipe.peak_lr, "weight_decay": recipe.decay},
        "validation": {"on": begin.validated_on, "n": len(begin.validation)},
        "curve": outcome.curve,
        "best_epoch": outcome.best_epoch,
        "stopped": outcome.stopped,
        "probe": {"kind": begin.kind, **{key: of_probe[key] for key in FIGURES}},
        "network": of_network and {key: of_network[key] for key in FIGURES},
        "cached_bottom": made.cached,
        "advice": advised and {key: advised[key] for key in ("option", "tune", "layer", "expected_gain", "reasons")},
        "scratch": scratch,
        "seconds": round(seconds, 3),
    }
