"""Text towers: words as vectors of the space that an image network's embeddings lie in.

A class is the mean of the unit vectors of its prompts, scaled to unit length again (Radford et al. 2021, "Learning
Transferable Visual Models From Natural Language Supervision", section 3.1.4), as open_clip's
``build_zero_shot_classifier`` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from featurepipe.errors import BackboneError

BATCH = 64  # prompts that are encoded at once
PLACE = "{}"  # where a template has the name of a class
TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class TextTower:
    """What turns prompts into vectors.

    Attributes
    ----------
    encode : callable
        A list of n prompts → float32 (n, D), of any length.
    scale : float
        By which the cosines of images and texts are multiplied before a softmax.
    """

    encode: Callable[[Sequence[str]], np.ndarray]
    scale: float


def class_vectors(tower: TextTower, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> np.ndarray:
    """A unit vector for each class.

    Parameters
    ----------
    tower : TextTower
    names : sequence of str, shape (K,)
        What the classes are called in prompts.
    templates : sequence of str
        Prompts, each with ``{}`` where the name of a class goes.

    Returns
    -------
    ndarray of float32, shape (K, D)

    Raises
    ------
    BackboneError
        No template, one without ``{}``, or vectors that are not finite.

    Examples
    --------
    >>> tower = TextTower(lambda prompts: np.array([[len(one), 1] for one in prompts], np.float32), 100.0)
    >>> found = class_vectors(tower, ["ox", "horse"], ["{}", "a {}"])
    >>> [[round(float(number), 2) for number in row] for row in found]
    [[0.94, 0.35], [0.99, 0.17]]
    """
    check_templates(templates)
    prompts = [template.replace(PLACE, name) for name in names for template in templates]
    found = np.concatenate([tower.encode(prompts[at : at + BATCH]) for at in range(0, len(prompts), BATCH)])
    if not np.isfinite(found).all():
        raise BackboneError("the text tower gives values that are not finite; its weights may be damaged")
    each = unit(found).reshape(len(names), len(templates), -1)  # (K, T, D)
    return unit(each.mean(1))


def check_templates(templates: Sequence[str]) -> None:
    """Raise BackboneError unless there are templates, each with a place for the name of a class."""
    if not templates:
        raise BackboneError("there is no template for prompts; give one, such as 'a photo of a {}.'")
    for template in templates:
        if PLACE not in template:
            raise BackboneError(
                f"the template {template!r} has no {PLACE}, where the name of a class goes; write 'a photo of a {{}}.'"
            )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) of unit length; what is 0 stays 0."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
