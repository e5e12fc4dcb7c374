"""A network and the head of an objective, as the training loop trains them: the body stays, the head is thrown away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from featurepipe.backbones import Backbone
from featurepipe.finetuning import Recipe, Trainee
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.objectives.pretext import Pretext

SHOWN = 4  # names of parameters in a note


class Pupil(Trainee):
    """A body and the head of an objective, as the training loop trains them.

    Parameters
    ----------
    backbone : Backbone
    pretext : Pretext
    recipe : Recipe
    """

    act: ClassVar[str] = "pretraining"
    relief: ClassVar[str] = "a smaller input size"
    _at_once = 256  # as many as lie in a batch of the probes

    def __init__(self, backbone: Backbone, pretext: Pretext, recipe: Recipe) -> None:
        self.device, self.pretext = backbone.device, pretext
        backbone.module.requires_grad_(True)
        self.body = Body(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            self.head = pretext.make_head(self.body).to(self.device)
        self._half = recipe.precision == "bf16"

    def changing(self) -> Iterator[tuple[str, Tensor]]:
        """See `Trainee.changing`: all parameters, and what batch norms keep."""
        for prefix, module in (("body.", self.body.module), ("head.", self.head)):
            yield from ((prefix + name, value) for name, value in module.named_parameters())
            yield from ((prefix + name, value) for name, value in module.named_buffers() if value.is_floating_point())

    def parameters(self) -> list[nn.Parameter]:
        """See `Trainee.parameters`."""
        return [*self.body.module.parameters(), *self.head.parameters()]

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Biases and norms do not decay."""
        both = self.parameters()
        plain = [one for one in both if one.ndim <= 1]
        decayed = [one for one in both if one.ndim > 1]
        groups = [(decayed, recipe.decay), (plain, 0.0)]
        return [{"params": some, "weight_decay": decay, "lr_scale": 1.0} for some, decay in groups]

    def tell_unreached(self, parameters: Sequence[nn.Parameter]) -> str:
        """See `Trainee.tell_unreached`: what the file will hold as it was at the start."""
        those = {id(one) for one in parameters}
        found = {name: one.numel() for name, one in self.body.module.named_parameters() if id(one) in those}
        if not found:
            return ""
        share = 100 * sum(found.values()) / sum(one.numel() for one in self.body.module.parameters())
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return (
            f"note: the objective {self.pretext.how.objective} does not train {', '.join(list(found)[:SHOWN])}{more} "
            f"({share:.1f} % of the network): they stay as they were at the start; contrastive trains all"
        )

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The objective's outputs, float32 (B, …)."""
        self.body.train()
        self.head.train()
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16) if self._half else nullcontext():
            return self.pretext.outputs(self.body, self.head, inputs).float()

    def predict(self, *inputs: Tensor) -> Tensor:
        """Embeddings, float32 (B, width), of pixels of 0…1 (B, 3, H, W); see `Trainee.in_pieces`."""
        self.body.eval()
        return self.in_pieces(lambda *some: self.body.embed(*some).float(), inputs, self.body.name)

    def backbone_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's own tensors in a state of the loop, under timm's names; all else as it is now."""
        own = self.body.module.state_dict()
        return {name: state.get(f"body.{name}", value.detach().cpu()).contiguous() for name, value in own.items()}
