"""The stage `export`: embeddings as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featurepipe import matrices
from featurepipe.files import check_safe_csv
from featurepipe.stores import Store
from featurepipe.stores.outputs import check_result
from featurepipe.surroundings import guarded


@guarded
def export(
    store: str | Path,
    output: str | Path,
    *,
    backbone: str | None = None,
    layer: str | None = None,
    safe_csv: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write one backbone's embeddings as ``.npz``, ``.parquet`` or ``.csv``, in manifest order.

    Parameters
    ----------
    store, output : path
    backbone, layer : str, optional
        Which backbone of the store, and which layer of it, as for `featurepipe.stores.Store.choose`.
    safe_csv : bool
        As for `predict`.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.

    Returns
    -------
    dict
        ``store, output, backbone, layer, rows, width``.
    """
    matrices.check_suffix(output)
    check_safe_csv(safe_csv, Path(output))
    source = Store.open(store)
    check_result(Path(output), "file of embeddings", matrices.is_export, [source], force=force)
    entry = source.choose(backbone, layer)
    matrix = matrices.load(source, entry)
    matrices.export(matrix, output, safe_csv=safe_csv)
    rows, width = matrix.X.shape
    identity = {"store": str(store), "output": str(output), "backbone": entry.name, "layer": entry.layer}
    return {**identity, "rows": rows, "width": width}
