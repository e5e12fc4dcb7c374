"""What every stage that takes a data set begins with: its manifest, and a word on what is in it."""

from __future__ import annotations

from pathlib import Path

from featurepipe import manifests
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest


def read(
    data: str | Path, listener: Listener, *, path_column: str | None = None, label_column: str | None = None
) -> Manifest:
    """`featurepipe.manifests.read`; the listener hears what was found and what was left out."""
    manifest = manifests.read(data, path_column=path_column, label_column=label_column)
    for line in manifests.describe(manifest):
        listener.note(line)
    return manifest
