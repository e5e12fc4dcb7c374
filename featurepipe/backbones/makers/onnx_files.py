"""ONNX files as a family: ``onnx:FILE``, run by onnxruntime.

The graph is cut where its classifier begins, or at the tensor that ``--layer`` names.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from featurepipe.backbones.makers.foreign import ForeignNetwork, feed_of, finish, resolve_transform
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import PENULTIMATE
from featurepipe.backbones.trust import check_input, check_place
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_file, sha256_json
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable

PRODUCTS = ("Gemm", "MatMul")
# What may come between a classifier's product and the end of the graph.
ENDINGS = {"Add", "Sub", "Mul", "Div", "Cast", "Clip", "Dropout", "Flatten", "Identity", "LogSoftmax", "Reshape"} | {
    *("Sigmoid", "Softmax", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
}
CARRYING = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose", "Unsqueeze", "Squeeze"}
SHOWN = 4  # names in a message


class OnnxFiles(Maker):
    """A network by the path of its ONNX file."""

    family = "onnx"

    def knows(self, name: Any) -> bool:
        """None without the family in front."""
        return False

    def create(self, name: Any, request: Request) -> ForeignNetwork:
        """See `Maker.create`; the one argument is ``channels``, rgb or bgr."""
        called = f"onnx:{os.path.basename(name)}"
        request.allow(called, "layer", "arguments", "transform", "precision")
        if unknown := request.arguments.keys() - {"channels"}:
            raise BackboneError(f"{called} takes the argument channels alone, not {min(unknown)!r}")
        onnx, _ = require_onnx()
        path = Path(name)
        model = _read(onnx, path)
        digest = _digest(onnx, model, path)
        cut, notes = _cut(model.graph, request.layer, called)
        whole = cut in {one.name for one in model.graph.output}
        (given,) = _inputs(model.graph, called)
        shape = [axis.dim_value or None for axis in given.type.tensor_type.shape.dim]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type))
        feed, own = feed_of(shape, dtype, called, last=False)
        transform, told = resolve_transform(own, feed, request.transform, called)
        return finish(
            _runner(onnx, path, model, given.name, cut, whole),
            feed,
            transform,
            request,
            name=called,
            architecture="onnx:graph",
            arguments={"output": cut},
            weights=digest,
            place=f"onnx:{path.resolve()}",
            notes=[*told, *notes],
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; a graph can do no more than compute."""
        place = str(origin.weights or origin.source["name"].removeprefix("onnx:"))
        if not origin.trust:
            check_place(place, spec["weights"], origin.who, (".onnx",))
            check_input(spec["transform"]["input_size"], origin.who)
        arguments = {"channels": spec["arguments"].get("channels", "rgb")}
        return {"name": f"onnx:{place}", "arguments": arguments, **{key: spec[key] for key in ("layer", "transform")}}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are files."""
        return []


def _read(onnx: ModuleType, path: Path) -> Any:
    """The model of a file, without the tensors that other files hold.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        It is not an ONNX file.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"ONNX file {path} does not exist; write onnx:FILE")
    try:
        model = onnx.load(path, load_external_data=False)
        graph = model.graph
    except Exception as error:  # of protobuf, whose errors have no common parent here
        raise BackboneError(f"{path} is not an ONNX file, or is damaged ({first_line(error)})") from error
    if not graph.node or not graph.output:
        raise BackboneError(f"{path} is not an ONNX file, or is damaged: it holds no graph")
    return model


def _digest(onnx: ModuleType, model: Any, path: Path) -> str:
    """sha256 of the file, and of those next to it that hold its tensors."""
    outside = {
        entry.value
        for tensor in model.graph.initializer
        if onnx.external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path, *(path.parent / name for name in sorted(outside))]
    for file in files:
        if file.parent.resolve() != path.parent.resolve() or not file.is_file():
            raise BackboneError(f"{path} keeps tensors in {file}, which is not in its folder; put it there")
    return sha256_file(path) if len(files) == 1 else sha256_json([sha256_file(file) for file in files])


def _inputs(graph: Any, called: str) -> list[Any]:
    """The one input that is no weight."""
    weights = {tensor.name for tensor in graph.initializer}
    found = [one for one in graph.input if one.name not in weights]
    if len(found) != 1:
        names = ", ".join(one.name for one in found)
        raise BackboneError(f"{called} takes {len(found)} inputs ({names}); a backbone takes images and nothing else")
    return found


def _cut(graph: Any, layer: str, called: str) -> tuple[str, list[str]]:
    """The tensor that becomes the embedding, and what to say of it."""
    outputs = [one.name for one in graph.output]
    if layer != PENULTIMATE:
        nodes = {node.name: node.output[0] for node in graph.node if node.name and node.output}
        tensors = {name: name for node in graph.node for name in node.output if name}
        known = nodes | tensors
        if layer not in known:
            near = difflib.get_close_matches(layer, known, n=SHOWN, cutoff=0.3) or [*reversed(tensors)][:SHOWN]
            raise BackboneError(f"{called} has no tensor {layer!r}; there are {', '.join(near)}, …")
        return known[layer], []
    if len(outputs) > 1:
        raise BackboneError(f"{called} gives {len(outputs)} outputs; choose one with --layer: {', '.join(outputs)}")
    found = find_classifier(graph)
    if found is None:
        return outputs[0], [f"{called} does not end in a linear classifier; the embedding is its output {outputs[0]}"]
    return found, [f"{called} is cut before its last linear layer, at the tensor {found}; choose another with --layer"]


def find_classifier(graph: Any) -> str | None:
    """What the last product with weights takes, if only a classifier's end follows it; None where there is none."""
    fixed = {tensor.name for tensor in graph.initializer}
    makers: dict[str, Any] = {}
    for node in graph.node:
        makers |= dict.fromkeys(node.output, node)
        if node.op_type == "Constant" or (node.op_type in CARRYING and {*node.input} <= fixed):
            fixed |= {*node.output}
    name = graph.output[0].name
    while (node := makers.get(name)) is not None:
        free = [one for one in node.input if one and one not in fixed]
        if node.op_type in PRODUCTS and len(free) == 1:
            return free[0]
        if node.op_type == "Reshape":
            free = free[:1]  # the shape may be computed
        if node.op_type not in ENDINGS or len(free) != 1:
            return None
        (name,) = free
    return None


def _runner(
    onnx: ModuleType, path: Path, model: Any, given: str, cut: str, whole: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """The function that runs the graph up to a tensor."""
    _, runtime = require_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # as each thread of an extraction runs a batch of its own
    options.log_severity_level = 3
    try:
        content: Any = str(path)
        if not whole:
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
            del model.graph.output[:]
            model.graph.output.append(onnx.ValueInfoProto(name=cut))
            content = model.SerializeToString()
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # neither library's errors have a common parent
        large = "; a file of more than 2 GB can only be used at one of its outputs, named with --layer"
        hint = "" if whole or os.path.getsize(path) + _outside(model) < 2**31 else large
        raise BackboneError(f"{path} cannot be run by onnxruntime: {first_line(error)}{hint}") from error
    return lambda x: session.run([cut], {given: x})[0]


def _outside(model: Any) -> int:
    """Bytes of tensors that lie in other files."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return sum(int(entry.value) for entry in entries if entry.key == "length")


def require_onnx() -> tuple[ModuleType, ModuleType]:
    """The libraries onnx and onnxruntime.

    Raises
    ------
    DependencyMissing
        One of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise DependencyMissing("onnx:FILE needs onnx and onnxruntime: pip install 'featurepipe[onnx]'") from error
    return onnx, onnxruntime
