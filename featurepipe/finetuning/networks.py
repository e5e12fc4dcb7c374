"""A network with its head, as it is tuned: which parts train, in which mode, at which learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones import Backbone, TimmModule, embedding_forward
from featurepipe.errors import FinetuningError
from featurepipe.finetuning.depths import trainable
from featurepipe.finetuning.objectives import Classes, Objective
from featurepipe.finetuning.recipes import Recipe
from featurepipe.finetuning.trainees import Trainee

if TYPE_CHECKING:
    import torch

FIRST_RATE = 0.1  # of the head's learning rate, that of the first layer where no layer decay is given
HALF = 0.5  # any layer decay, from whose powers layers can be counted
Forward = Callable[..., "torch.Tensor"]  # what a batch holds → float32 (B, D)


class Network(Trainee):
    """A backbone under a linear head.

    Parameters
    ----------
    backbone : Backbone
        Its module is changed by tuning: let nobody else use it meanwhile.
    weight, bias : ndarray of float32, shape (K, D) and (K,)
        Weights of the head.
    recipe : Recipe
    forward : callable, optional
        What a batch holds → float32 (B, D), if that is not pixels.

    Attributes
    ----------
    module : torch.nn.Module
        The backbone's.
    head : torch.nn.Linear
    names : set of str
        The module's parameters that train, once the head alone does not.
    """

    def __init__(
        self,
        backbone: Backbone,
        weight: np.ndarray,
        bias: np.ndarray,
        recipe: Recipe,
        forward: Forward | None = None,
    ) -> None:
        import torch

        if weight.shape[1] != backbone.width:
            raise FinetuningError(
                f"the head takes {weight.shape[1]} features and {backbone.name} gives {backbone.width}; "
                "give the model file and the backbone that belong together"
            )
        self.backbone, self.device = backbone, backbone.device
        self.module: TimmModule = backbone.module
        self.names = trainable(self.module, recipe.tune, backbone.name)
        own = backbone.spec["precision"]
        self.evaluated = forward or embedding_forward(backbone, own)
        trained = training_precision(recipe, own)
        self.trained = self.evaluated if forward or trained == own else embedding_forward(backbone, trained)
        self._exact = own == "fp32"
        # not initialised, which would draw from the generator that is everybody's
        self.head = torch.nn.utils.skip_init(torch.nn.Linear, weight.shape[1], len(weight), device=backbone.device)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(bias))
        self._keeps_norms = recipe.batch_norm == "eval"
        if recipe.checkpointing:
            self._checkpoint(backbone.name)
        self.set_trained(head_alone=False)

    def objective(self, recipe: Recipe, train: Any) -> Objective:
        """One class per image, as the recipe has it; see `Trainee.objective`."""
        return Classes.of(recipe, train.samples.targets, self.head.weight)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What trains, the head included."""
        head = list(self.head.parameters())
        return [*head, *(one for one in self.module.parameters() if one.requires_grad)]

    def set_trained(self, head_alone: bool) -> None:
        """Let gradients reach what trains, and the head."""
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(not head_alone and name in self.names)
        self._modes = list(_modes(self.module, active=True, keep_norms=self._keeps_norms))

    def logits(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Float32 (B, K) of a training batch, with what trains in training mode."""
        import torch

        for module, training in self._modes:
            module.training = training
        if any(parameter.requires_grad for parameter in self.module.parameters()):
            return self.head(self.trained(*inputs))
        with torch.no_grad():
            embeddings = self.trained(*inputs)  # (B, D)
        return self.head(embeddings)

    def predict(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Float32 (B, K) of what a batch holds, as the finished model will compute them of its images; in as many
        pieces as memory asks for.

        Raises
        ------
        OutOfMemory
            There is not enough for a single image.
        """
        self.module.eval()
        with _tf32(not self._exact):
            return self.in_pieces(lambda *some: self.head(self.evaluated(*some)), inputs, self.backbone.name)

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Parameter groups of what trains: layer-wise learning rates as ``lr_scale``, no decay of biases and norms."""
        from timm.optim import param_groups_layer_decay

        groups: list[dict[str, Any]] = []
        if any(parameter.requires_grad for parameter in self.module.parameters()):
            spared = self.module.no_weight_decay() if hasattr(self.module, "no_weight_decay") else ()
            decay = HALF if recipe.layer_decay is None else recipe.layer_decay
            options: dict[str, Any] = {
                "weight_decay": recipe.decay,
                "no_weight_decay_list": spared,
                "layer_decay": decay,
            }
            groups = param_groups_layer_decay(self.module, **options)
            if recipe.layer_decay is None:
                above = [math.log(group["lr_scale"], HALF) for group in groups]  # layers between it and the head
                deepest = max(*above, _layers_above(self.module), 1)
                for group, layers in zip(groups, above, strict=True):
                    group["lr_scale"] = FIRST_RATE ** (layers / deepest)
        groups.append({"params": [self.head.weight], "weight_decay": recipe.decay, "lr_scale": 1.0})
        groups.append({"params": [self.head.bias], "weight_decay": 0.0, "lr_scale": 1.0})
        return groups

    def changing(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All that tuning changes, by name: what trains, the head, and what batch norms keep."""
        yield from ((f"head.{name}", value) for name, value in self.head.named_parameters())
        yield from ((name, value) for name, value in self.module.named_parameters() if name in self.names)
        if not self._keeps_norms:
            yield from ((name, value) for name, value in self.module.named_buffers() if value.is_floating_point())

    def _checkpoint(self, name: str) -> None:
        try:
            self.module.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:  # the latter is how timm says so of some
            raise FinetuningError(f"{name} cannot compute activations again; leave out checkpointing") from error


def training_precision(recipe: Recipe, own: str) -> str:
    """The precision of the training forward pass; fp16 would need its gradients scaled, so bf16 replaces it."""
    chosen = own if recipe.precision == "auto" else recipe.precision
    return "bf16" if chosen == "fp16" else chosen


def _layers_above(module: TimmModule) -> int:
    """How many of timm's layers lie above the first, frozen ones too; 0 where timm does not say what layers are."""
    from timm.models import group_parameters

    if not hasattr(module, "group_matcher"):
        return 0
    return max(group_parameters(module, module.group_matcher(coarse=False)))


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Within, cuDNN computes in TF32 or not, as `featurepipe.backbones.Backbone.embed` has it."""
    import torch

    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def _modes(module: torch.nn.Module, *, active: bool, keep_norms: bool) -> Iterator[tuple[torch.nn.Module, bool]]:
    """Each module, and whether it is in training mode: what trains is, what is frozen and batch norms that keep their
    figures are not.

    Parts without parameters, such as dropout, are as what holds them is; of a network that is frozen in part nothing
    but its trained blocks.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    parameters = list(module.parameters())
    if parameters:
        active = all(parameter.requires_grad for parameter in parameters)
    yield module, active and not (keep_norms and isinstance(module, _BatchNorm))
    for child in module.children():
        yield from _modes(child, active=active, keep_norms=keep_norms)
