"""A model as an ONNX graph: pixels in, probabilities out, for machines without torch.

The graph holds the normalisation, the backbone, the head and its temperature. Decoding, resizing and cropping are the
caller's; the file's metadata says how they are done.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe import backbones
from featurepipe.backbones import Backbone, embedding_forward
from featurepipe.backbones.makers.onnx_files import require_onnx
from featurepipe.errors import ModelFileError
from featurepipe.media import plural
from featurepipe.models import Model
from featurepipe.probes import HEADS, MULTI_LABEL, names

if TYPE_CHECKING:
    import torch

OPSET = 17
KEY = "featurepipe"  # of the metadata
INPUT, OUTPUT = "inputs", "probabilities"
LARGEST_DIFFERENCE = 1e-4  # between a probability of the graph and one of the model
LINEAR = (*names("is_linear"), MULTI_LABEL)
LAYERED = "mlp"
HEADED = (*LINEAR, LAYERED)  # kinds of which a graph can be made


@dataclass(frozen=True)
class Graph:
    """An ONNX graph of a model.

    Attributes
    ----------
    content : bytes
        The ONNX file.
    difference : float
        The greatest between a probability of the graph and one of the model in fp32, over what it was tried on.
    drift : float
        The same between the graph and the model in its own precision.
    tried : int
        Inputs that both were given.
    """

    content: bytes
    difference: float
    drift: float
    tried: int


def is_graph(path: Path) -> bool:
    """Whether a file is an ONNX graph that was made here."""
    onnx, _ = require_onnx()
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's decoder has errors of its own
        return False
    return any(one.key == KEY for one in graph.metadata_props)


def check_kind(model: Model, who: str) -> None:
    """Raise ModelFileError unless a graph can be made of such a head."""
    if model.kind not in HEADED:
        raise ModelFileError(
            f"{who}: a probe of kind {model.kind} cannot be written as ONNX; use one of {', '.join(HEADED)} instead"
        )


def make(model: Model, backbone: backbones.Extractor, inputs: np.ndarray, who: str) -> Graph:
    """Trace a model, and compare what the graph says with what the model says.

    Parameters
    ----------
    model : Model
    backbone : Extractor
        The model's.
    inputs : ndarray, shape (n, …)
        What its transform makes of some samples: uint8 (n, C, H, W) for images. Both are given these.
    who : str
        What the model is called in messages.

    Raises
    ------
    ModelFileError
        A backbone that is not a torch network, a kind of probe that no graph can be made of, or a graph whose
        probabilities differ by more than 1e-4.
    DependencyMissing
        onnx or onnxruntime is not installed.
    """
    check_kind(model, who)
    if not isinstance(backbone, Backbone):
        on = plural(backbone.transform.medium)
        raise ModelFileError(
            f"{who}: {backbone.name} on {on} cannot be written as ONNX; only torch networks that take pixels can"
        )
    onnx, runtime = require_onnx()
    exact = backbone.adapted(precision="fp32")
    content = _described(onnx, _trace(model, exact, inputs), model, backbone)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run([OUTPUT], {INPUT: inputs[i : i + 8]})[0] for i in range(0, len(inputs), 8)])
    difference, drift = (_difference(model, one, inputs, found) for one in (exact, backbone))
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelFileError(
            f"{who}: probabilities of the ONNX graph differ by up to {difference:.1e} from the model's, more than "
            f"{LARGEST_DIFFERENCE:.0e}, so it was not written; {backbone.name} may use an operation that ONNX lacks"
        )
    return Graph(content, difference, drift, len(inputs))


def _difference(model: Model, backbone: Backbone, inputs: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(model.predict_proba(backbone.embed(inputs)) - found).max())


def _trace(model: Model, backbone: Backbone, inputs: np.ndarray) -> bytes:
    """The graph as torch writes it; any number of inputs at once."""
    import torch

    class Whole(torch.nn.Module):
        """Pixels (B, …) → probabilities (B, K)."""

        def __init__(self) -> None:
            super().__init__()
            self.network = backbone.module
            self.embed = embedding_forward(backbone, "fp32", normalisation(backbone))
            self.answer = _answer(model, backbone.device)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.answer(self.embed(pixels))

    some = torch.from_numpy(inputs[:2]).to(backbone.device)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
        file = Path(folder) / "graph.onnx"
        warnings.simplefilter("ignore")  # of the tracer: what it may have got wrong is found by comparing
        torch.onnx.export(
            Whole().eval(),
            (some,),
            file,
            dynamo=False,  # needs no package besides onnx
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
        return file.read_bytes()


def normalisation(backbone: Backbone) -> Callable[[torch.Tensor], torch.Tensor]:
    """From uint8 (B, …, C, H, W) to a network's input, without the writing in place that a tracer does not follow."""
    import torch

    mean, std = (
        torch.tensor(one, device=backbone.device).view(-1, 1, 1)
        for one in (backbone.transform.mean, backbone.transform.std)
    )
    return lambda pixels: (pixels.to(torch.float32) - 255 * mean) * (1 / (255 * std))


def head_scores(model: Model, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The head of one of the kinds in `HEADED` in torch: embeddings (B, D) → scores (B, K), of two classes (B, 1)."""
    import torch

    arrays = [
        torch.from_numpy(np.asarray(one, np.float32)).to(device) for one in HEADS[model.kind].dump(model.estimator)
    ]
    layers = list(zip(arrays[::2], arrays[1::2], strict=True))

    def scores(x: torch.Tensor) -> torch.Tensor:
        for number, (weight, bias) in enumerate(layers):
            x = torch.nn.functional.linear(x if not number else torch.relu(x), weight, bias)
        return x

    return scores


def _answer(model: Model, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The head in torch: embeddings (B, D) → probabilities (B, K)."""
    import torch

    scores = head_scores(model, device)
    if model.is_multi_label:
        return lambda x: torch.sigmoid(scores(x))

    def proba(x: torch.Tensor) -> torch.Tensor:
        found = scores(x) / model.temperature
        if found.shape[1] > 1:
            return torch.softmax(found, dim=1)
        return torch.sigmoid(torch.cat([-found, found], dim=1))  # one score of two classes

    return proba


def _described(onnx: Any, content: bytes, model: Model, backbone: Backbone) -> bytes:
    """The graph with what its users need to know."""
    graph = onnx.load_from_string(content)
    told = {
        "classes": model.classes.tolist(),
        "kind": model.kind,
        "temperature": model.temperature,
        "medium": backbone.transform.medium,
        "transform": asdict(backbone.transform),
        "backbone": backbone.name,
        "fingerprint": model.backbone["fingerprint"],
    }
    onnx.helper.set_model_props(graph, {KEY: json.dumps(told)})
    onnx.checker.check_model(graph)
    return graph.SerializeToString()
