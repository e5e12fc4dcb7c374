"""A network in two: a frozen bottom, whose output can be kept, and the top that trains."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from featurepipe.backbones.weights import first_line
from featurepipe.errors import FinetuningError

if TYPE_CHECKING:
    import torch
    from torch import fx

    from featurepipe.finetuning.cached.graphs import TopPart

CUT = "input of"  # how every layer that was cut is called
BATCHES = 2, 3  # images of the two inputs that tell what grows with the batch


@dataclass(frozen=True)
class Split:
    """A network in two.

    Attributes
    ----------
    bottom : torch.nn.Module
        Normalised input x (B, C, H, W), float → tuple of tensors, each (B, ...): all that the top needs of the frozen
        part. It stays in eval mode and gives tensors that want no gradient.
    top : torch.nn.Module
        Those tensors → penultimate embedding (B, D), as the whole network computes it: under autocast up to the last
        feature maps, then pooled in fp32. Its modules are the network's own, with the same parameters.
    shapes : tuple of tuple of int
        Shape of each tensor, for one image.
    layer : str
        What was cut, such as ``input of layer4 (192×14×14)``. For one network, no two cuts are called the same.
    """

    bottom: torch.nn.Module
    top: TopPart
    shapes: tuple[tuple[int, ...], ...]
    layer: str


def split(module: torch.nn.Module, trained: set[str], input_size: Sequence[int], name: str) -> Split:
    """Cut a network below the first of its parts that train.

    A call belongs to the top if it uses a parameter that trains, or the result of such a call. Of the others the top
    gets results: what depends on the image is cut; sizes and tables of positions are made again. The cut is what the
    calls of the top need, or less where a plain function can be computed again from less.

    Nothing else may run meanwhile: torch.fx changes what every module of the process does when it is called.
    Checkpointing of the network's outermost calls is lost, which `TopPart.checkpoint` does instead; that inside its
    stages and blocks stays.

    Parameters
    ----------
    module : torch.nn.Module
        A timm network without classifier. It is left in the mode that it is in.
    trained : set of str
        Names of its parameters; see `featurepipe.finetuning.trainable`.
    input_size : sequence of int
        Channels, height, width.
    name : str
        The network's, for messages.

    Raises
    ------
    FinetuningError
        All parameters train, or none; or torch.fx cannot follow the network.

    Examples
    --------
    >>> import timm, torch
    >>> from featurepipe.finetuning import trainable
    >>> network = timm.create_model("test_resnet", num_classes=0).eval()
    >>> made = split(network, trainable(network, "last-1", "test_resnet"), (3, 64, 64), "test_resnet")
    >>> made.layer
    'input of layer4 (192×4×4)'
    >>> x = torch.zeros(2, 3, 64, 64)
    >>> made.top(*made.bottom(x)).shape == network(x).shape
    True
    """
    from featurepipe.finetuning.cached.graphs import Whole, record, sample, trace

    _check(module, trained, name)
    device = next(module.parameters()).device
    with _evaluating(module):
        whole = Whole(module)
        try:
            inputs = [sample(count, input_size, device) for count in BATCHES]
            graph = trace(whole, trained, inputs)
            found = [record(whole, graph, x, _describe) for x in inputs]
        except Exception as error:  # whatever a network's code does with what the tracer gives it
            raise _unsplit(name, first_line(error)) from error
        cut = _Cut(whole, graph, trained, found, name)
        made = cut.build(inputs[0])
        _compare(made, whole, inputs[1], name)
    return made


def _check(module: torch.nn.Module, trained: set[str], name: str) -> None:
    held = {parameter for parameter, _ in module.named_parameters()}
    if unknown := trained - held:
        raise FinetuningError(f"{name} has no parameter {min(unknown)}")
    if not trained:
        raise FinetuningError(f"no layer of {name} trains; the head alone is trained from the embeddings")
    if trained == held:
        raise _nothing(name)


def _nothing(name: str) -> FinetuningError:
    return FinetuningError(f"all of {name} is trained, from its first layer on, so there is nothing to cache")


def _unsplit(name: str, why: str) -> FinetuningError:
    return FinetuningError(f"{name} cannot be split: {why}; tune it without a cache")


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Within, all parts are in eval mode; afterwards each is in its own again."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@dataclass(frozen=True)
class _Made:
    """What is known of a tensor."""

    shape: tuple[int, ...]
    is_floating: bool


def _describe(value: Any) -> Any:
    """A result with what is known of tensors in their place."""
    import torch

    if isinstance(value, torch.Tensor):
        return _Made(tuple(value.shape), value.is_floating_point())
    if isinstance(value, list | tuple):
        return type(value)(map(_describe, value)) if type(value) in (list, tuple) else tuple(map(_describe, value))
    return value


def _tensors(value: Any) -> list[_Made]:
    if isinstance(value, _Made):
        return [value]
    return [one for part in value for one in _tensors(part)] if isinstance(value, list | tuple) else []


class _Cut:
    """Where a traced network is cut.

    Parameters
    ----------
    whole, graph : Whole, fx.Graph
    trained : set of str
    found : list of dict
        What the calls gave for each of `BATCHES`.
    name : str
    """

    def __init__(
        self, whole: Any, graph: fx.Graph, trained: set[str], found: Sequence[dict[fx.Node, Any]], name: str
    ) -> None:
        self._whole, self._graph, self._name = whole, graph, name
        self._few, self._more = found
        self._ids = {id(p) for path, p in whole.network.named_parameters() if path in trained}
        self._top: set[fx.Node] = set()  # calls that train, or depend on one
        self._varies: set[fx.Node] = set()  # those whose tensors depend on the images
        self.begins: list[str] = []  # the parts that train first
        for node in graph.nodes:
            below = self._top.isdisjoint(node.all_input_nodes)
            if self._trains(node):
                self.begins += [node.target.partition(".")[2]] if below else []
                self._top.add(node)
            elif not below:
                self._top.add(node)
            is_input = node.op == "placeholder"
            if is_input or (_tensors(self._few[node]) and not self._varies.isdisjoint(node.all_input_nodes)):
                self._varies.add(node)
        if not {node for node in self._top if node.op == "output"}:
            raise _unsplit(name, "its embedding does not depend on what trains")
        self._kept = self._pruned([node for node in graph.nodes if node in self._wanted(self._top)])

    def _trains(self, node: fx.Node) -> bool:
        if not isinstance(node.target, str):  # but a function
            return False
        if node.op == "call_module":
            return any(id(p) in self._ids for p in self._whole.get_submodule(node.target).parameters())
        return node.op == "get_attr" and id(operator.attrgetter(node.target)(self._whole)) in self._ids

    def _wanted(self, calls: Iterable[fx.Node]) -> set[fx.Node]:
        """The results of the bottom that depend on the images and that these calls use."""
        return {one for node in calls for one in node.all_input_nodes if one in self._varies - self._top}

    def _pruned(self, cut: list[fx.Node]) -> list[fx.Node]:
        """The cut, but instead of plain functions' results what they were computed from, where that is less to keep."""
        for node in reversed(cut):
            others, new = {*cut} - {node}, {node}
            while plain := {one for one in new - others if one.op in ("call_function", "call_method")}:
                new = new - plain | self._wanted(plain)
                candidate = [one for one in self._graph.nodes if one in others | new]
                if self._size(candidate) < self._size(cut):
                    return self._pruned(candidate)
        return cut

    def _size(self, cut: Sequence[fx.Node]) -> int:
        return sum(prod(tensor.shape[1:]) for node in cut for tensor in _tensors(self._few[node]))

    def build(self, x: torch.Tensor) -> Split:
        """Both parts; x is an input to try the bottom on."""
        import torch
        from torch import fx

        from featurepipe.finetuning.cached.graphs import BottomPart, TopPart, leave_autocast

        shapes = self._shapes()
        bottom = BottomPart(fx.GraphModule(self._whole, self._bottom()))
        if not any(True for _ in bottom.parameters()):
            raise _nothing(self._name)
        given = bottom(x)
        last_layout = [t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in given]
        last_layout = [last and not t.is_contiguous() for last, t in zip(last_layout, given, strict=True)]
        is_head = not any(node.target is leave_autocast for node in self._top)
        top = TopPart(fx.GraphModule(self._whole, self._above()), _of_autocast(bottom, x), last_layout, is_head=is_head)
        sizes = ", ".join("×".join(map(str, shape)) for shape in shapes)
        return Split(bottom, top, shapes, f"{CUT} {', '.join(self.begins)} ({sizes})")

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        shapes = []
        for node in self._kept:
            for few, more in zip(_tensors(self._few[node]), _tensors(self._more[node]), strict=True):
                if (few.shape[:1], more.shape[:1]) != tuple((n,) for n in BATCHES) or few.shape[1:] != more.shape[1:]:
                    raise _unsplit(self._name, f"{node.name} is not one tensor for each image")
                if not few.is_floating:
                    raise _unsplit(self._name, f"{node.name} holds whole numbers")
                shapes.append(few.shape[1:])
        return tuple(shapes)

    def _bottom(self) -> fx.Graph:
        """The graph of what is kept."""
        from torch import fx

        graph, needed = fx.Graph(), self._needed(self._kept)
        copies: dict[fx.Node, fx.Node] = {}
        for node in self._graph.nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        outputs = [
            copies[node] if path == () else _reach(graph, copies[node], path)
            for node in self._kept
            for path in _paths(self._few[node])
        ]
        graph.output(tuple(outputs))
        return graph

    def _needed(self, calls: Iterable[fx.Node]) -> set[fx.Node]:
        """These calls, and all that they depend on."""
        needed = set(calls)
        for node in reversed(self._graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return needed

    def _above(self) -> fx.Graph:
        """The graph of the top: its inputs are what is kept; what it needs besides is made again."""
        from torch import fx

        graph, copies = fx.Graph(), {}
        for number, node in enumerate(self._kept):
            inputs = iter([graph.placeholder(f"kept_{number}_{i}") for i, _ in enumerate(_paths(self._few[node]))])
            copies[node] = _filled(self._few[node], inputs)
        first = next(iter(graph.nodes))
        needed = self._needed(node for node in self._graph.nodes if node.op == "output")

        def made(node: fx.Node) -> Any:
            if node not in copies:
                if not _tensors(self._few[node]):  # sizes
                    copies[node] = self._again(graph, first, self._few[node], self._more[node], node)
                else:
                    copies[node] = graph.node_copy(node, made)
            return copies[node]

        for node in self._graph.nodes:
            if node in self._top & needed:
                copies[node] = self._dropout(graph, node, made) or graph.node_copy(node, made)
        return graph

    def _again(self, graph: fx.Graph, kept: fx.Node, few: Any, more: Any, node: fx.Node) -> Any:
        """A value that is not a tensor: a constant, or a multiple of the number of images."""
        if isinstance(few, tuple | list) and len(few) == len(more):
            return type(few)(self._again(graph, kept, *pair, node) for pair in zip(few, more, strict=True))
        if few == more:
            return few
        if isinstance(few, int) and isinstance(more, int) and few * BATCHES[1] == more * BATCHES[0]:
            images = graph.call_method("size", (kept, 0))
            return graph.call_function(operator.mul, (images, few // BATCHES[0]))
        raise _unsplit(self._name, f"{node.name} is {few} for {BATCHES[0]} images and {more} for {BATCHES[1]}")

    def _dropout(self, graph: fx.Graph, node: fx.Node, made: Callable[[fx.Node], Any]) -> fx.Node | None:
        """A dropout function as a module: traced in eval mode, it would never drop anything."""
        import torch

        if node.target is not torch.nn.functional.dropout:
            return None
        share: Any = node.kwargs["p"] if "p" in node.kwargs else node.args[1]
        self._whole.add_module(f"{node.name}_module", torch.nn.Dropout(share).eval())
        return graph.call_module(f"{node.name}_module", (made(node.all_input_nodes[0]),))


def _paths(value: Any) -> list[tuple[int, ...]]:
    """Where the tensors of a result are, as indices one inside the other."""
    if isinstance(value, _Made):
        return [()]
    return [(i, *rest) for i, part in enumerate(value) for rest in _paths(part)] if _tensors(value) else []


def _reach(graph: fx.Graph, node: fx.Node, path: Sequence[int]) -> fx.Node:
    for index in path:
        node = graph.call_function(operator.getitem, (node, index))
    return node


def _filled(value: Any, inputs: Iterator[fx.Node]) -> Any:
    """A result with inputs where its tensors were."""
    if isinstance(value, _Made):
        return next(inputs)
    return type(value)(_filled(part, inputs) for part in value) if _tensors(value) else value


def _of_autocast(bottom: torch.nn.Module, x: torch.Tensor) -> list[bool]:
    """Which of the bottom's tensors have autocast's own precision under autocast."""
    import torch

    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind)
    try:
        with torch.autocast(kind, dtype=dtype):
            return [tensor.dtype == dtype for tensor in bottom(x)]
    except RuntimeError:  # a network that does not run under autocast is not going to be tuned under it
        return [False for _ in bottom(x)]


def _compare(made: Split, whole: torch.nn.Module, x: torch.Tensor, name: str) -> None:
    """Raise unless both parts together are the whole network: a branch that was traced may go the other way."""
    import torch

    with torch.no_grad():
        found, wanted = made.top(*made.bottom(x)), whole(x)
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())):
        raise _unsplit(name, "its parts together give a different embedding")
