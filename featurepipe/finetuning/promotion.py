"""From a probe to a tuned network: a copy of the backbone is tuned, and becomes a backbone of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from featurepipe import probes
from featurepipe.backbones import PENULTIMATE, Backbone, Extractor, TimmModule, freeze, is_tunable, medium_of
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import FinetuningError
from featurepipe.finetuning.batches import Examples, PixelBatches, Step, in_order
from featurepipe.finetuning.depths import AUTO, trainable
from featurepipe.finetuning.heads import Head, head_estimator
from featurepipe.finetuning.loop import Batches, Course, Session, tune
from featurepipe.finetuning.networks import Forward, Network
from featurepipe.finetuning.objectives import Objective
from featurepipe.finetuning.peers import Peers
from featurepipe.finetuning.recipes import Recipe
from featurepipe.finetuning.trainees import SCORED
from featurepipe.media import IMAGE, plural
from featurepipe.signatures import spread
from featurepipe.surroundings import guarded


@dataclass(frozen=True)
class Cache:
    """Activations of a network's frozen bottom instead of pixels.

    Attributes
    ----------
    train : Batches
    validation : callable
        Gives the validation images as steps, in their order.
    forward : callable
        What a step holds → float32 (B, D), through the parameters that train.
    release : callable
        To be called when they are not needed any more: another run may then remove them.
    """

    train: Batches
    validation: Callable[[], Iterator[Step]]
    forward: Forward
    release: Callable[[], object] = lambda: None


Cached = Callable[[Backbone], Cache | None]


@dataclass(frozen=True)
class Promoted:
    """A tuned network, taken apart again into a backbone and a classifier of its embeddings.

    Attributes
    ----------
    backbone : Backbone
        With the weights of the epoch that is kept, and a fingerprint of its own.
    estimator : sklearn.linear_model.LogisticRegression
    temperature : float
        Fitted on the validation data.
    outcome : Course
    tuned, parameters : int
        How many of the network's parameters trained, and how many there are.
    cached : bool
        Whether what is frozen was computed once and kept.
    """

    backbone: Backbone
    estimator: Any
    temperature: float
    outcome: Course
    tuned: int
    parameters: int
    cached: bool


def check_family(name: str, spec: Mapping[str, Any]) -> None:
    """Raise FinetuningError unless what a spec describes can be tuned: before it is made, which may take long."""
    if (medium := medium_of(spec)) != IMAGE:
        raise FinetuningError(
            f"{name} is not a network that can be tuned, as it embeds {plural(medium)}; use a probe "
            "(TransferClassifier in a notebook)"
        )
    if not is_tunable(spec):
        raise FinetuningError(
            f"{name} is not a network that can be tuned, as those of timm are; choose another backbone"
        )


def check_tunable(extractor: Extractor, tune: str) -> Backbone:
    """The network; FinetuningError unless it is one whose penultimate embedding a head takes, and that is so deep."""
    check_family(extractor.name, extractor.spec)
    if extractor.spec["layer"] != PENULTIMATE:
        raise FinetuningError(
            f"tuning starts from the penultimate embedding, not from {extractor.spec['layer']}; leave out the layer"
        )
    network = cast(Backbone, extractor)  # as all are of a family that can be tuned
    if tune != AUTO:
        trainable(network.module, tune, extractor.name)
    return network


@guarded
@spread(session=Session)
def promote(
    backbone: Backbone,
    head: Head,
    train: Examples,
    validation: Examples,
    recipe: Recipe,
    *,
    name: str,
    objective: Objective | None = None,
    cached: Cached | None = None,
    workers: int | None = None,
    session: Session,
) -> Promoted:
    """Tune a copy of a backbone together with a head.

    Parameters
    ----------
    backbone : Backbone
    head : Head
    train, validation : Examples
        Their targets are places among ``head.classes``.
    recipe : Recipe
    name : str
        What to call the tuned backbone.
    cached : callable, optional
        Given the copy, makes a `Cache` of these samples; or None.
    objective
        As for `featurepipe.finetuning.tune`.
    workers : int, optional
        Threads that decode; one per core by default.
    session

    Raises
    ------
    FinetuningError
        A depth or trick that this network has not, or a head of another width.
    """
    peers = session.peers
    module: TimmModule = copy.deepcopy(backbone.module)
    copied = replace(backbone, module=module)
    kept = cached(copied) if cached is not None else None
    network = Network(copied, head.weight, head.bias, recipe, None if kept is None else kept.forward)
    batches: Batches = PixelBatches(train, copied.transform, recipe, copied.device, workers, peers)
    if kept is not None:
        batches = kept.train

    def validating(among: Peers = peers) -> Iterator[Step]:
        if kept is not None:
            return kept.validation()
        return in_order(validation, copied.transform, SCORED, copied.device, workers, among)

    identity = {
        "backbone": backbone.fingerprint,
        "head": sha256_state_dict({"weight": network.head.weight, "bias": network.head.bias}),
        "train": [[one.digest for one in train.images], train.targets.tolist()],
        "validation": [[one.digest for one in validation.images], validation.targets.tolist()],
        "cached": kept is not None,
    }
    outcome = tune(network, batches, validating, recipe, objective=objective, identity=identity, **vars(session))
    network.load(outcome.state)
    if recipe.checkpointing:
        module.set_grad_checkpointing(False)
    freeze(copied.module, copied.device)
    weight, bias = (part.detach().cpu().numpy() for part in (network.head.weight, network.head.bias))
    tuned = replace(
        copied, name=name, spec={**copied.spec, "weights": sha256_state_dict(copied.module.state_dict())}, compiled=None
    )
    sizes = {key: value.numel() for key, value in copied.module.named_parameters()}
    return Promoted(
        backbone=tuned,
        estimator=head_estimator(weight, bias, head.classes, head.strength),
        temperature=1.0 if peers.rank else _temperature(network, validating(Peers()), head.classes),  # the first writes
        outcome=outcome,
        tuned=sum(size for key, size in sizes.items() if key in network.names),
        parameters=sum(sizes.values()),
        cached=kept is not None,
    )


def refit_recipe(recipe: Recipe, images: int) -> Recipe:
    """How a network that is kept is trained on all images: as before, for as many epochs as on the first images."""
    return replace(recipe, epochs=recipe.epochs_for(images))


def refitted(first: Promoted, again: Promoted) -> Promoted:
    """A network that has learned from all images, with the temperature and the course of the one that was judged.

    Nothing is held back from it, so that a temperature of its own would be that of images that it knows by heart.
    """
    return replace(again, temperature=first.temperature, outcome=first.outcome)


def _temperature(network: Network, steps: Iterator[Step], classes: np.ndarray) -> float:
    """Fitted on validation images, which the network has not learned from."""
    logits, targets = [], []
    for step in steps:
        logits.append(network.predict(*step.inputs).cpu().double().numpy())  # (B, K)
        targets.append(step.targets.cpu().numpy())
    return probes.fit_temperature(np.concatenate(logits), classes[np.concatenate(targets)], classes)
