"""How deep a network is tuned: its layers in order, and which of their parameters train."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featurepipe.backbones import TimmModule
from featurepipe.errors import FinetuningError

if TYPE_CHECKING:
    import torch

HEAD, ALL, AUTO = "head", "all", "auto"
_LAST, _STAGE = re.compile(r"last-([1-9]\d*)"), re.compile(r"stage([1-9]\d*)\+")


def check_depth(tune: str) -> None:
    """Raise FinetuningError unless `tune` reads as a depth: ``head``, ``last-N``, ``stageK+``, ``all`` or ``auto``."""
    if tune not in (HEAD, ALL, AUTO) and not _LAST.fullmatch(tune) and not _STAGE.fullmatch(tune):
        raise FinetuningError(f"tune {tune!r} is unknown; use head, last-N (blocks), stageK+ (K from 1), all or auto")


def layers_of(module: TimmModule, name: str) -> list[list[str]]:
    """The names of a network's parameters, layer by layer: the stem, then block after block.

    timm's own groups (`group_matcher`), as its layer-wise learning rates use them. One that holds no matrix, such as a
    last norm, belongs to the block before it.

    Raises
    ------
    FinetuningError
        timm does not say what this network's layers are.
    """
    from timm.models import group_parameters

    if not hasattr(module, "group_matcher"):
        raise FinetuningError(f"timm does not say what the layers of {name} are; tune all of it, or the head alone")
    parameters = dict(module.named_parameters())
    groups: list[list[str]] = []
    for _, names in sorted(group_parameters(module, module.group_matcher(coarse=False)).items()):
        if groups and all(parameters[one].ndim < 2 for one in names):
            groups[-1] += names
        else:
            groups.append(list(names))
    return groups


def trainable(module: torch.nn.Module, tune: str, name: str) -> set[str]:
    """The names of the parameters that train.

    Parameters
    ----------
    module : torch.nn.Module
        A timm network without classifier.
    tune : str
        ``head`` (none of the network's own), ``last-N`` (its last N blocks), ``stageK+`` (from the K-th of its feature
        stages on; of a ViT every block is one), ``all``.
    name : str
        The network's, for messages.

    Raises
    ------
    FinetuningError
        A depth that this network has not.

    Examples
    --------
    >>> import timm
    >>> network = timm.create_model("test_resnet", num_classes=0)
    >>> sorted({parameter.split(".")[0] for parameter in trainable(network, "stage4+", "test_resnet")})
    ['layer3', 'layer4']
    """
    check_depth(tune)
    if tune == AUTO:
        raise FinetuningError("the depth to tune must be chosen first; featurepipe advise recommends one")
    if tune == HEAD:
        return set()
    if tune == ALL:
        return {parameter for parameter, _ in module.named_parameters()}
    layers = layers_of(module, name)
    if found := _LAST.fullmatch(tune):
        count = int(found[1])
        if count > len(layers):
            raise FinetuningError(
                f"{name} has {len(layers)} blocks, stem included; use last-1 to last-{len(layers)}, or all"
            )
        return {parameter for layer in layers[-count:] for parameter in layer}
    stage = _STAGE.fullmatch(tune)
    assert stage is not None  # all that is left of what `check_depth` lets through
    return {parameter for layer in layers[_first(module, int(stage[1]), layers, name) :] for parameter in layer}


def _first(module: torch.nn.Module, stage: int, layers: list[list[str]], name: str) -> int:
    """The number of the first layer of a feature stage: the one after the last of the stage before."""
    stages = [info["module"] for info in getattr(module, "feature_info", ())]
    if not stages:
        raise FinetuningError(f"timm does not say what the stages of {name} are; use last-N, all or head")
    if stage > len(stages):
        raise FinetuningError(f"{name} has no stage{stage}; use stage1+ to stage{len(stages)}+, or all")
    if stage == 1:
        return 0
    ends = [
        number
        for number, layer in enumerate(layers)
        for before in stages[: stage - 1]
        if any(parameter.startswith(f"{before}.") for parameter in layer)
    ]
    return max(ends, default=0) + 1  # a first stage without parameters ends with the stem
