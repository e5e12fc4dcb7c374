"""The stage `advise`: which cell of the size × similarity table a store is in, and what to do, from the cache alone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import advice, backbones, matrices, models
from featurepipe.backbones import Extractor
from featurepipe.errors import FeaturepipeError, ProbeError
from featurepipe.finetuning import Recipe
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests.labelsets import SEPARATOR
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import sizes
from featurepipe.models import Model
from featurepipe.models.candidates import Candidate, Prepared, divide, find
from featurepipe.probes import FOLDS
from featurepipe.reports.answers import extract_words
from featurepipe.results import presented
from featurepipe.stores import Entry
from featurepipe.stores.entries import in_order
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import EntryOptions
from featurepipe.vocabulary.names import HANDMADE

ATTENTIVE = "attentive"  # kind of probe
MOST = 5000  # images to train on, and to select on: of more a draw is measured, so that advice takes seconds


@guarded
@presented
def advise(
    store: str | Path,
    *,
    backbone: str | Extractor | None = None,
    layer: str | None = None,
    attentive: str | Path | None = None,
    seed: int = 0,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Recommend probing, tuning (and how deep), or labelling more, with the expected gain and cost of each.

    No image is read. Nothing is learned or selected on the split that `probe` would report; its rows are not even
    loaded. Splits are used, or made, as in `probe`. See `featurepipe.advice` for what is measured, and
    `featurepipe.advice.rules` for what follows.

    Parameters
    ----------
    store : path
        The more the store holds, the better the evidence: stages (``extract(…, layers="stages")``), raw pixels (which
        `probe` adds), an untrained copy (``probe(…, baselines="full")``).
    backbone : str, Backbone or Descriptor, optional
        Which backbone of the store to use, if it holds several.
    layer : str, optional
        The layer that a head would be tuned on, by default the penultimate embedding; layers before it are the earlier
        ones.
    attentive : path, optional
        Model file of an attentive probe on the tokens of this backbone, trained on the same samples; by default the one
        next to the tokens in the store, if it fits. Its accuracy on selection data is compared with the linear probe's.
    seed : int
        Seed for splits, folds and draws.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        `featurepipe.advice.decide`'s ``option, tune, layer, more_labels, cell, expected_gain, attentive, reasons,
        warnings``, and ``store, backbone, splits, split_source, seed``, ``next`` (the command to run),
        ``attentive_commands`` (those that train an attentive probe; none where nothing speaks for it), ``cost_minutes``
        (option → minutes, at the least; None where the shards do not say how long they took), ``evidence``
        (`featurepipe.advice.count`'s and `measure`'s, ``masked``, ``tokens`` (``there``, ``possible``, and
        ``attentive``: None, or ``model, top1, n, on``), ``drawn`` (images that were measured, where not all),
        ``seconds_per_image, device, epochs``), ``seconds``.

    Raises
    ------
    ProbeError
        Sets of labels, a descriptor (which cannot be tuned), or labels on which nothing can be measured.
    ManifestError, StoreError
        As for `probe`.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits", "/tmp/advised.store", layers="stage2,penultimate")["store"]
    >>> found = advise(store)
    >>> found["option"], found["tune"], found["cell"]["size"]
    ('linear', None, 'large')
    """
    started = time.perf_counter()
    source = find(store, None, EntryOptions(backbone=backbone, layer=layer, device="cpu"))
    _check(source)
    entries = _layers(source)
    common = set.intersection(*(set(entry.places()) for entry in entries))
    ready = divide(source, seed=seed, among=common)
    ready.announce(listener, "advice")
    tokens = _tokens(ready, attentive, listener)
    evidence = {**_evidence(ready, entries, seed), "tokens": tokens.evidence}
    if evidence["drawn"] is not None and tokens.evidence["attentive"] is not None:
        listener.note(
            f"note: {tokens.evidence['attentive']['model']} is not compared: its probe has learned from all samples, "
            f"the linear one here from {evidence['drawn']:,}"
        )
        tokens.evidence["attentive"] = None
    cost = None
    if evidence["seconds_per_image"]:
        held_out = 0 if ready.parts.select is None else len(ready.parts.select)
        held_out = held_out or evidence["images"] // FOLDS  # what tuning would have to hold out itself
        speed = {"seconds": evidence["seconds_per_image"], "epochs": evidence["epochs"], "views": Recipe().views}
        cost = advice.minutes(evidence["images"], held_out, **speed)
    found = advice.decide(evidence)
    return {
        "store": str(source.store.path),
        "backbone": source.single.name,
        **found,
        "next": _next(source, found, tokens),
        "attentive_commands": tokens.commands if found["attentive"] in ("try", "use") else [],
        "cost_minutes": cost,
        "evidence": evidence,
        "splits": sizes(ready.samples.split),
        "split_source": ready.split_source,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 3),
    }


@dataclass(frozen=True)
class _Tokens:
    """What a store has of the tokens of a backbone.

    Attributes
    ----------
    evidence : dict
        ``there, possible, attentive``.
    commands : list of str
        They train an attentive probe, and the last one tells it what it is worth.
    """

    evidence: dict[str, Any]
    commands: list[str]


def _tokens(ready: Prepared, given: str | Path | None, listener: Listener) -> _Tokens:
    """Find tokens of the backbone, and an attentive probe on them.

    Raises
    ------
    ProbeError
        The model that is given is no attentive probe of this backbone and these samples.
    """
    entry, store = ready.single, ready.store
    held = [one for one in store.entries() if _is_same_network(one.spec, entry)]
    if given is not None:
        file = models.locate(given)
        if (problem := _misfit(loaded := models.load(file), ready)) is not None:
            raise ProbeError(f"{file} {problem}; leave out --attentive, or give an attentive probe of this store")
        found = [(file, loaded)]
    else:
        found = list(_fitting((file for one in held for file in models.find(one.folder)), ready, listener))
    place, source = str(store.path), entry.provenance["source"]
    words = extract_words({"spec": entry.spec, "source": source}, "DATA", place, whole=True)
    commands = [] if held else [shlex.join([*words, "--tokens"])]
    which = held[0].folder.name if held else entry.name
    commands.append(shlex.join(["featurepipe", "probe", place, "-b", which, "--kind", "attentive"]))
    return _Tokens(
        {
            "there": bool(held),
            "possible": bool(held) or (backbones.is_tunable(entry.spec) and backbones.medium_of(entry.spec) == "image"),
            "attentive": _measured(*found[0]) if found else None,
        },
        commands,
    )


def _fitting(files: Iterable[Path], ready: Prepared, listener: Listener) -> Iterator[tuple[Path, Model]]:
    """Those of some model files that are attentive probes of a backbone and its samples."""
    for file in files:
        try:
            model = models.load(file)
        except FeaturepipeError as error:
            listener.note(f"note: a model next to the tokens is not used: {error}")
        else:
            if _misfit(model, ready) is None:
                yield file, model


def _is_same_network(spec: Mapping[str, Any], entry: Entry) -> bool:
    """Whether a spec is of tokens of the network that an entry's vectors come from."""
    same = ("architecture", "arguments", "weights", "transform", "precision")
    return backbones.grid_of(spec) is not None and all(spec[key] == entry.spec[key] for key in same)


def _misfit(model: Model, ready: Prepared) -> str | None:
    """Why a model is no attentive probe of a backbone and its samples; None where it is."""
    if model.kind != ATTENTIVE:
        return f"is a {model.kind} model, not an attentive probe"
    if not _is_same_network(model.backbones[0]["spec"], ready.single):
        return f"reads tokens of another network than {ready.single.title}"
    entry = ready.single
    tuned = models.seen_in_tuning(entry.provenance["source"], entry.spec)
    if not np.array_equal(model.seen, np.union1d(models.row_keys(ready.parts.learned), tuned)):
        return "was trained on other samples than these"
    if model.card.val is None or "top1" not in model.card.val:
        return "has no figure on selection data"
    return None


def _measured(file: Path, model: Model) -> dict[str, Any]:
    figures = model.card.val
    assert figures is not None  # of a model that fits
    return {"model": str(file), "top1": figures.top1, "n": figures.n, "on": model.card.selection.on}


def _next(source: Candidate, found: Mapping[str, Any], tokens: _Tokens) -> str:
    """The command that follows the advice."""
    if found["attentive"] == "use" and found["tune"] is None:
        return tokens.commands[-1]
    store, names = (
        shlex.quote(str(source.store.path)),
        {one.name for one in source.store.entries() if not one.is_baseline},
    )
    which = f" -b {source.single.folder.name}" if len(names) > 1 else ""
    if found["tune"] is not None:
        return f"featurepipe finetune {store}{which} --tune {found['tune']}"
    if found["layer"] == backbones.PENULTIMATE:
        return f"featurepipe probe {store}{which}"
    own = next(one for one in source.store.entries() if one.is_sibling(source.single) and one.layer == found["layer"])
    return f"featurepipe probe {store} -b {own.folder.name}"


def _check(source: Candidate) -> None:
    """Refuse what no head can be tuned on, and sets of labels."""
    if source.single.is_handmade:
        raise ProbeError(f"{source.single.title} is not a network, so there is nothing to tune; choose one with -b")
    sets = [label for label in source.samples.y if label is not None and SEPARATOR in label]
    if sets:
        raise ProbeError(f"advice is for one class per sample, not for sets of labels such as {sets[0]!r}")


def _layers(source: Candidate) -> list[Entry]:
    """The entries of the backbone's layers up to the one that is meant, in the network's order."""
    siblings = in_order([entry for entry in source.store.entries() if entry.is_sibling(source.single)])
    place = next(n for n, entry in enumerate(siblings) if entry.layer == source.single.layer)
    return siblings[: place + 1]


def _evidence(ready: Prepared, entries: Sequence[Entry], seed: int) -> dict[str, Any]:
    """All that the advice is made of."""
    parts, entry = ready.parts, ready.single
    train = _draw(parts.train, seed)
    val = None if parts.select is None else _draw(parts.select, seed)
    kept = [train] if val is None else [train, val]
    digests, y, units = (np.concatenate([getattr(one, name) for one in kept]) for name in ("digests", "y", "units"))
    drawn = len(train) < len(parts.train) or (parts.select is not None and len(kept[-1]) < len(parts.select))
    measured = advice.measure(
        {one.layer: _embeddings(one, digests) for one in entries},
        y,
        val=np.arange(len(y)) >= len(train),
        groups=units,
        baselines=_baselines(ready, digests),
        labels=len(parts.train),
        seed=seed,
    )
    counted = advice.count(parts.train.y)
    speed = entry.images_per_second
    return {
        **counted,
        **measured,
        "tunable": backbones.is_tunable(entry.spec),
        "masked": advice.is_masked(entry.name, entry.provenance["source"]["name"]),
        "drawn": len(y) if drawn else None,
        "seconds_per_image": 1 / speed if speed else None,
        "device": entry.provenance.get("device"),
        "epochs": Recipe().epochs_for(counted["images"]),
    }


def _draw(part: FeatureMatrix, seed: int) -> FeatureMatrix:
    """`MOST` rows of a part, as many of each class as its share; all rows if they are no more."""
    if len(part) <= MOST:
        return part
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(np.flatnonzero(part.y == label)) for label in np.unique(part.y)]
    return part.take(np.concatenate([one[: -(-MOST * len(one) // len(part))] for one in rows]))


def _baselines(ready: Prepared, digests: np.ndarray) -> dict[str, np.ndarray]:
    """What comes without pretraining, as far as the store holds it for all of these images."""
    found = {}
    for entry in (one for one in ready.store.entries() if one.grid is None):
        random = entry.spec["architecture"] == ready.single.spec["architecture"] and entry.layer == ready.single.layer
        if entry.is_baseline and (random or entry.spec["architecture"] in HANDMADE):
            name = "untrained copy" if random else HANDMADE[entry.spec["architecture"]]
            if set(digests) <= entry.places().keys() and entry.fingerprint != ready.single.fingerprint:
                found[name] = _embeddings(entry, digests)
    return found


def _embeddings(entry: Entry, digests: np.ndarray) -> np.ndarray:
    places = entry.places()
    return matrices.gather(entry, [places[digest] for digest in digests])
