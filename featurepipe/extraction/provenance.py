"""What a shard says about how it was made; it decides nothing."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from featurepipe.backbones import Embedder

LIBRARIES = ("featurepipe", "torch", "torchvision", "timm", "scikit-learn", "numpy", "h5py", "pillow")
OPTIONAL = (
    *("scikit-image", "opencv-python-headless", "opencv-python"),  # HOG's and SIFT's
    *("transformers", "open_clip_torch", "onnxruntime", "keras", "tensorflow", "tensorflow_cpu"),  # other families'
)


def provenance(extractor: Embedder, batch_size: int | None) -> dict[str, Any]:
    """Name and source of a backbone, device, batch size (None: chosen here), library versions and time."""
    return {
        "name": extractor.name,
        "source": extractor.source,
        "device": extractor.device,
        "batch_size": batch_size,
        "versions": versions(),
        "created": now(),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that decide results; of the optional ones, those that are here."""
    found = {library: metadata.version(library) for library in LIBRARIES}
    for library in OPTIONAL:
        with suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def now() -> str:
    """The current second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
