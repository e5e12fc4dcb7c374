"""What results say about how they were made."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from featurepipe.backbones import Extractor

LIBRARIES = ("featurepipe", "torch", "timm", "scikit-learn", "numpy", "h5py", "pillow")


def provenance(extractor: Extractor, batch_size: int) -> dict[str, Any]:
    """What a shard says about how it was made."""
    return {
        "name": extractor.name,
        "source": extractor.source,
        "device": extractor.device,
        "batch_size": batch_size,
        "versions": versions(),
        "created": now(),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that decide results."""
    return {library: metadata.version(library) for library in LIBRARIES}


def now() -> str:
    """The current second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
