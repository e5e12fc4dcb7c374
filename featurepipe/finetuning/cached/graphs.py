"""A network as a graph of calls, and parts of that graph as modules that share its parameters.

The graph is torch.fx's (Reed et al., *torch.fx: Practical Program Capture and Transformation for Deep Learning in
Python*, MLSys 2022), traced no deeper than it takes to part what trains from what does not: a block's own branches and
loops never meet the tracer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import checkpoint

from featurepipe.backbones import TimmModule
from featurepipe.backbones.networks import memory_format


def leave_autocast(maps: torch.Tensor) -> torch.Tensor:
    """Feature maps as float32, and what follows computes in it; `autocast_kept` undoes that."""
    torch.set_autocast_enabled(maps.device.type, False)
    return maps.float()


fx.wrap("leave_autocast")


@contextmanager
def autocast_kept(kind: str, *, off: bool = False) -> Iterator[None]:
    """Within, autocast is as it was before, or off; afterwards it is as it was, whatever happens inside."""
    enabled = torch.is_autocast_enabled(kind) and not off
    with torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=enabled):
        yield


class Whole(torch.nn.Module):
    """From normalised input (B, C, H, W) to the penultimate embedding (B, D): pooled in fp32, as extraction does it."""

    def __init__(self, network: TimmModule) -> None:
        super().__init__()
        self.network: TimmModule = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        maps = self.network.forward_features(x)
        several = isinstance(maps, list | tuple)  # CrossViT and CoaT end in several scales
        maps = [leave_autocast(scale) for scale in maps] if several else leave_autocast(maps)
        return self.network.forward_head(maps, pre_logits=True)


class BottomPart(torch.nn.Module):
    """The frozen part: always in eval mode, never with a gradient; x (B, C, H, W) → tuple of tensors (B, ...)."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph.eval()

    def train(self, mode: bool = True) -> BottomPart:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        self.eval()  # its modules are the network's, whose mode somebody may have changed
        with autocast_kept(x.device.type):
            return self.graph(x)


class TopPart(torch.nn.Module):
    """The trained part: tensors of the bottom (B, ...) → penultimate embedding (B, D).

    Parameters
    ----------
    graph : GraphModule
    of_autocast : sequence of bool
        Which tensors the bottom gives in autocast's own precision. Kept as float32 they are brought back to it, or
        sums with them would be rounded otherwise than in the whole network.
    channels_last : sequence of bool
        Which tensors the bottom gives in this layout.
    is_head : bool
        Whether all of it comes after the last feature map, where nothing is autocast.
    """

    def __init__(
        self, graph: fx.GraphModule, of_autocast: Sequence[bool], channels_last: Sequence[bool], *, is_head: bool
    ) -> None:
        super().__init__()
        self.graph = graph
        self._of_autocast, self._channels_last, self._is_head = tuple(of_autocast), tuple(channels_last), is_head

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """See the class."""
        kind = tensors[0].device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        given = [  # copies, as the first calls may work in place
            tensor.to(dtype if of_autocast else torch.float32, memory_format=_layout(channels_last), copy=True)
            for tensor, of_autocast, channels_last in zip(tensors, self._of_autocast, self._channels_last, strict=True)
        ]
        with autocast_kept(kind, off=self._is_head):
            return self.graph(*given)

    def checkpoint(self) -> None:
        """Keep no more of each block, from now on, than its input: the backward pass computes the rest again.

        A network that does so in its own outermost calls, as a ResNet or a ViT, cannot here, where these are traced.
        """
        for target in {node.target for node in self.graph.graph.nodes if node.op == "call_module"}:
            parent, _, name = target.rpartition(".")
            setattr(self.graph.get_submodule(parent), name, _Again(self.graph.get_submodule(target)))


class _Again(torch.nn.Module):
    """A part of a network, computed again in the backward pass, block by block, unless it does so itself."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *given: Any, **named: Any) -> Any:
        """As the part's."""
        if not torch.is_grad_enabled() or any(getattr(one, "grad_checkpointing", False) for one in self.part.modules()):
            return self.part(*given, **named)
        for block in _blocks(self.part):
            is_single = sum(one.ndim > 1 for one in block.parameters()) < 2  # whose input is kept anyway
            run = block if is_single else partial(checkpoint, block, use_reentrant=False)
            given, named = (run(*given, **named),), {}
        return given[0]


def _blocks(part: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """What is called one after another, down to what is more than a sequence."""
    if not isinstance(part, torch.nn.Sequential) or type(part).forward is not torch.nn.Sequential.forward:
        yield part
        return
    for child in part:
        yield from _blocks(child)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.preserve_format


def trace(whole: Whole, trained: set[str], inputs: Sequence[torch.Tensor]) -> fx.Graph:
    """The calls of a network, in order.

    Only modules that hold both kinds of parameters are looked into. Where their code goes one way or another by a size,
    it goes the way that it takes for the inputs.

    Parameters
    ----------
    whole : Whole
    trained : set of str
        Names of the network's own parameters.
    inputs : sequence of Tensor
        (B, C, H, W), of different B.

    Raises
    ------
    Exception
        Whatever torch.fx, or the network's code, says to what it cannot follow.
    """
    network = whole.network
    ids = {id(parameter) for name, parameter in network.named_parameters() if name in trained}
    checkpointing: list[TimmModule] = [part for part in network.modules() if getattr(part, "grad_checkpointing", False)]
    for part in checkpointing:  # wraps calls that the tracer has to see
        part.grad_checkpointing = False
    answers: list[bool] = []
    try:
        while True:
            try:
                return _Tracer(ids, answers).trace(whole)
            except Undecided as question:
                answers.append(_decide(whole, question, inputs))
    finally:
        for part in checkpointing:
            part.grad_checkpointing = True


class Undecided(Exception):
    """Code that is traced asks whether something holds that is not known yet."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        super().__init__(node.name)
        self.graph, self.node = graph, node


class _Tracer(fx.Tracer):
    def __init__(self, trained: set[int], answers: Sequence[bool]) -> None:
        super().__init__(param_shapes_constant=True)
        self._trained, self._answers = trained, iter(answers)

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        if len({id(parameter) in self._trained for parameter in m.parameters()}) < 2:
            return True
        return super().is_leaf_module(m, module_qualified_name)  # torch's own, except containers

    def to_bool(self, obj: fx.Proxy) -> bool:
        answer = next(self._answers, None)  # to the same questions, in the same order as before
        if answer is None:
            raise Undecided(self.graph, obj.node)
        return answer


def _decide(whole: Whole, question: Undecided, inputs: Sequence[torch.Tensor]) -> bool:
    values = [record(whole, question.graph, x, lambda value: value)[question.node] for x in inputs]
    if any(isinstance(value, torch.Tensor) for value in values) or len(set(map(bool, values))) > 1:
        raise ValueError("it computes differently for different images")
    return bool(values[0])


def record(whole: Whole, graph: fx.Graph, x: torch.Tensor, describe: Callable[[Any], Any]) -> dict[fx.Node, Any]:
    """What `describe` makes of each call's result, for one input."""
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            found[n] = describe(value)
            return value

    with torch.no_grad(), autocast_kept(x.device.type):
        Recorder(whole, graph=graph).run(x)
    return found


def sample(count: int, input_size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Noise to try a network on, always the same: (count, C, H, W), in the layout that networks get here."""
    noise = torch.randn(count, *input_size, generator=torch.Generator().manual_seed(count))
    return noise.to(device, memory_format=memory_format(device))
