"""The stage `zeroshot`: names of classes → a model file, without a single image."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, models, probes
from featurepipe.cards import Card, Data, Selection, Splits
from featurepipe.errors import ManifestError
from featurepipe.extraction import now, versions
from featurepipe.listeners import BARS, Listener
from featurepipe.results import presented
from featurepipe.surroundings import guarded

NOTHING = "nothing: the classes are named in words"
EQUALS = "="  # between a label and what it is called in prompts


@guarded
@presented
def zeroshot(
    classes: str | Path | Sequence[str] | Mapping[str, str],
    output: str | Path,
    *,
    backbone: str,
    templates: Sequence[str] = backbones.TEMPLATES,
    weights: str | PathLike[str] | None = None,
    random_weights: bool = False,
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    trust: bool = False,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Make a model file of class names alone, for `predict` and `evaluate`: zero-shot classification.

    A class is a vector: the mean of the unit vectors of its prompts, by the text tower that belongs to the backbone. An
    image gets the class whose vector has the greatest cosine with its embedding (Radford et al. 2021, "Learning
    Transferable Visual Models From Natural Language Supervision").

    Parameters
    ----------
    classes : str, path, sequence of str or mapping
        Names separated by commas, or a text file with one in each line, or several as a list. A name may be
        ``LABEL=WORDS``, where prompts are to have other words than the label; or a mapping from labels to words.
    output : path
        Model file, ``NAME.safetensors``.
    backbone : str
        ``open_clip:ARCH/TAG``, or ``transformers:FOLDER`` of a SigLIP model.
    templates : sequence of str
        Prompts, each with ``{}`` in the place of the words.
    weights : path, optional
        File that holds both towers of an ``open_clip:ARCH``.
    random_weights : bool
        Untrained towers, as a baseline, initialised with `seed`.
    seed : int
    precision : {'auto', 'fp32', 'bf16', 'fp16'}
        Precision of the image tower, as for `extract`; texts are always fp32.
    device : str
    trust : bool
        See `featurepipe.backbones.trust`.
    force : bool
        Also replace a file that featurepipe did not write.
    listener : Listener
        Hears notes; see `extract`.

    Returns
    -------
    dict
        ``model, backbone, fingerprint, classes, templates, scale`` (what cosines are multiplied by before the softmax),
        ``width, seconds``.

    Raises
    ------
    BackboneError
        The backbone has no text tower, or a template has no ``{}``.
    ManifestError
        No class names, or an empty one.
    ProbeError
        Fewer than two classes, or one twice.
    """
    started = time.perf_counter()
    words = class_words(classes)
    backbones.check_templates(templates)
    path = Path(output)
    models.check_output(path, [weights], force=force)
    images, tower = backbones.create_pair(
        backbone,
        weights=weights,
        random_weights=random_weights,
        seed=seed,
        precision=precision,
        device=device,
        trust=trust,
    )
    listener.note(f"{images.name}: {len(words)} classes, {len(templates)} prompt{'s' * (len(templates) != 1)} of each")
    vectors = backbones.class_vectors(tower, list(words.values()), templates)
    estimator = probes.cosine_classifier(list(words), vectors, tower.scale)
    said = {"name": images.name, "fingerprint": images.fingerprint, "spec": images.spec, "source": dict(images.source)}
    model = models.Model(
        kind=probes.ZERO_SHOT,
        estimator=estimator,
        temperature=1.0,
        backbone=said,
        seen=np.zeros(0, np.uint64),
        card=_card(words, templates, models.licence_of(images.source, images.spec), seed),
    )
    models.save(path, model)
    return {
        "model": str(path),
        "backbone": images.name,
        "fingerprint": images.fingerprint,
        "classes": words,
        "templates": list(templates),
        "scale": tower.scale,
        "width": images.width,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _card(words: Mapping[str, str], templates: Sequence[str], licence: str | None, seed: int) -> Card:
    """What the file says of itself."""
    prompts = "; ".join(templates)
    return Card(
        data=Data(root="", samples=0, classes=len(words)),
        splits=Splits(train=0, val=0, test=0),
        split_source="none: no image was used",
        selection=Selection.made(NOTHING, None, []),
        train=None,
        val=None,
        test=None,
        baselines={},
        few_shot=[],
        licence=licence,
        seed=seed,
        notes=[f"zero-shot: classes by their names, in the prompts: {prompts}"],
        versions=versions(),
        created=now(),
    )


def class_words(classes: str | PathLike[str] | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Label → what it is called in prompts.

    Raises
    ------
    ManifestError
        No names, an empty one, or a label twice.

    Examples
    --------
    >>> class_words("cat, dog, n02123=tabby cat")
    {'cat': 'cat', 'dog': 'dog', 'n02123': 'tabby cat'}
    """
    if isinstance(classes, Mapping):
        pairs = [(str(label), str(words)) for label, words in classes.items()]
    else:
        pairs = [_pair(one) for one in _names(classes)]
    if not pairs:
        raise ManifestError("no class is named; give names separated by commas, or a text file with one in each line")
    found: dict[str, str] = {}
    for label, words in pairs:
        if not label or not words:
            raise ManifestError(f"a class has no name ({label!r} = {words!r}); write LABEL or LABEL=WORDS")
        if label in found:
            raise ManifestError(f"class {label!r} is there twice; name each class once")
        found[label] = words
    return found


def _names(classes: str | PathLike[str] | Sequence[str]) -> list[str]:
    """The names in a text with commas, a file, or a list."""
    if not isinstance(classes, str | PathLike):
        return [str(one) for one in classes]
    path = Path(classes)
    if isinstance(classes, PathLike) or path.suffix == ".txt" or os.path.isfile(path):
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"the classes in {path} cannot be read: {error}; give a text file in UTF-8") from error
        return [line for line in lines if line.strip()]
    return [one for one in classes.split(",") if one.strip()]


def _pair(text: str) -> tuple[str, str]:
    label, equals, words = text.partition(EQUALS)
    return label.strip(), (words if equals else label).strip()
