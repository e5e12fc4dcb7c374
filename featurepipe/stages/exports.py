"""The stage `export`: embeddings, or a whole model, as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, graphs, matrices, models
from featurepipe.backbones import Extractor
from featurepipe.errors import ManifestError, ModelFileError, SampleError
from featurepipe.files import check_output, check_safe_csv, write_bytes
from featurepipe.listeners import BARS, Listener
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import atlases, clips
from featurepipe.stores import Store
from featurepipe.stores.outputs import check_result
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import AtlasOptions, ColumnOptions, OriginOptions

GRAPH = ".onnx"
COMPARED = 64  # samples, at most
TRIALS = 8


@guarded
@presented
@spread(atlas=AtlasOptions, origin=OriginOptions)
def export(
    store: str | Path,
    output: str | Path,
    *,
    backbone: str | None = None,
    layer: str | None = None,
    samples: str | Path | None = None,
    atlas: AtlasOptions,
    origin: OriginOptions,
    safe_csv: bool = False,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Write a store's embeddings as ``.npz``, ``.parquet`` or ``.csv``, its samples for a viewer, or a model as ONNX.

    Embeddings come in manifest order. The ONNX graph of a model takes what its transform makes of samples (for images
    uint8 pixels, resized and cropped) and gives probabilities; the normalisation, the backbone, the head and the
    temperature are inside. It is written only if it agrees with the model.

    With ``for_="atlas"`` the Parquet file has no embeddings, but ``id, path, label, split``, with a model
    ``prediction, confidence, seen_in_training``, and ``projection_x, projection_y``, ``neighbors`` (``ids``: numbers of
    rows from 0; ``distances``: 1 − cosine), ``image`` (``bytes``: a JPEG of 96 pixels; ``path``) and ``text``.

    Parameters
    ----------
    store : path
        A store; for ``.onnx`` a model file or a folder of results.
    output : path
    backbone, layer : str, optional
        Which backbone of the store, and which layer of it, as for `featurepipe.stores.Store.choose`.
    samples : path, optional
        A folder or table of samples on which an ONNX graph is compared with the model, at most 64 of them; by default
        eight made-up inputs.
    atlas
    origin
    safe_csv : bool
        As for `predict`.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes; see `extract`.

    Returns
    -------
    dict
        Of a store: ``store, output, backbone, layer, rows, width`` (for a viewer ``for`` instead of the width). Of a
        model: ``model, output, backbone, classes,
        bytes, compared`` (how many inputs), ``difference`` (the greatest between a probability of the graph and one of
        the model in fp32) and ``drift`` (the same with the model in its own precision).

    Raises
    ------
    ModelFileError
        A model of which no graph can be made, or whose graph disagrees by more than 1e-4.
    DependencyMissing
        The library for the format is not installed.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits", "/tmp/exported.store", backbone="pixels")["store"]
    >>> export(store, "/tmp/exported.npz")["rows"]
    1797
    """
    path = Path(output)
    atlases.check(path, atlas)
    if path.suffix.lower() == GRAPH:
        for name, given in (("backbone", backbone), ("layer", layer)):
            if given is not None:
                raise ModelFileError(
                    f"{name} chooses embeddings of a store, but {path.name} holds a model; leave it out, or write "
                    "FILE.npz"
                )
        check_safe_csv(safe_csv, path)
        return _export_model(store, path, samples, origin, force, listener)
    if samples is not None:
        raise ManifestError(f"samples are compared with an ONNX graph only; leave them out for {path.name}")
    if atlas.for_ is not None:
        check_safe_csv(safe_csv, path)
        opened = Store.open(store)
        entry = opened.choose(backbone, layer)
        rows = atlases.write(opened, entry, path, atlas, force, listener)
        identity = {"store": str(store), "output": str(path), "backbone": entry.name, "layer": entry.layer}
        return {**identity, "rows": rows, "for": atlas.for_}
    return _export_embeddings(store, path, backbone, layer, safe_csv, force)


def _export_embeddings(
    place: str | Path, path: Path, backbone: str | None, layer: str | None, safe_csv: bool, force: bool
) -> dict[str, Any]:
    matrices.check_suffix(path)
    check_safe_csv(safe_csv, path)
    source = Store.open(place)
    check_result(path, "file of embeddings", matrices.is_export, [source], force=force)
    entry = source.choose(backbone, layer)
    matrix = matrices.load(source, entry)
    matrices.export(matrix, path, safe_csv=safe_csv)
    rows, width = matrix.X.shape
    identity = {"store": str(place), "output": str(path), "backbone": entry.name, "layer": entry.layer}
    return {**identity, "rows": rows, "width": width}


def _export_model(
    place: str | Path, path: Path, samples: str | Path | None, origin: OriginOptions, force: bool, listener: Listener
) -> dict[str, Any]:
    file = models.locate(place)
    model = models.load_of_samples(file)
    models.check_single(model, file, "an ONNX file")
    check_output(path, "ONNX file", graphs.is_graph, [file, samples, origin.weights], force=force)
    graphs.check_kind(model, str(file))
    extractor = models.open_backbone(model, file, **vars(origin), note=listener.note)
    models.check_width(model, extractor.width, file)
    inputs = extractor.transform.trial(TRIALS) if samples is None else _decoded(samples, extractor, listener)
    graph = graphs.make(model, extractor, inputs, str(file))
    write_bytes(path, graph.content)
    return {
        "model": str(file),
        "output": str(path),
        "backbone": extractor.name,
        "classes": len(model.classes),
        "bytes": len(graph.content),
        "compared": graph.tried,
        "difference": graph.difference,
        "drift": graph.drift,
    }


def _decoded(samples: str | Path, extractor: Extractor, listener: Listener) -> np.ndarray:
    """What the transform makes of some samples, evenly spaced over a data set; (n, …)."""
    medium = backbones.medium_of(extractor.spec)
    manifest = clips.read(samples, ColumnOptions(), listener, medium)
    clips.check_medium(medium, manifest, extractor.name)
    places = np.unique(np.linspace(0, len(manifest) - 1, min(COMPARED, len(manifest))).astype(int))
    found = []
    for sample in (manifest.samples[place] for place in places.tolist()):
        try:
            found.append(extractor.transform.decode(manifest.source.read(sample.place), sample.part))
        except (SampleError, OSError) as error:
            listener.note(f"note: {sample.id} is left out: {error}")
    if not found:
        raise ManifestError(f"none of the samples of {samples} can be read, so the graph cannot be compared")
    return np.stack(found)
