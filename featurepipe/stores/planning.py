"""What is missing: files by the digest of their content, against what an entry holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from featurepipe.digests import sha256_file
from featurepipe.manifests import Manifest, Sample
from featurepipe.stores.directory import Entry, Row


class Pending(NamedTuple):
    """A content still to be embedded, and where it is: one file that holds it, or an image in memory.

    `retried` contents were rejected before; they never share a batch with new ones.
    """

    digest: str
    source: Path | Image.Image
    retried: bool = False


def digest_rows(
    manifest: Manifest, workers: int, progress: Callable[[int], object] = lambda n: None
) -> tuple[list[Row], dict[str, str]]:
    """Read every file of a manifest and take its sha256.

    Returns
    -------
    rows : list of Row
        In manifest order; the digest is '' where the file could not be read.
    unreadable : dict
        Sample id → reason.
    """

    def digest(sample: Sample) -> tuple[str, str]:
        try:
            return sha256_file(manifest.file(sample)), ""
        except OSError as error:
            return "", f"cannot be read: {error.strerror or error}"

    rows, unreadable = [], {}
    with ThreadPoolExecutor(workers) as pool:
        for sample, (found, reason) in zip(manifest.samples, pool.map(digest, manifest.samples), strict=True):
            rows.append(Row(sample, found))
            if reason:
                unreadable[sample.id] = reason
            progress(1)
    return rows, unreadable


def plan(rows: Sequence[Row], root: Path, entry: Entry) -> list[Pending]:
    """The distinct contents that `entry` lacks, in manifest order; those rejected before come last, to be retried."""
    have, refused = entry.places(), entry.rejects()
    missing: dict[str, Pending] = {}
    for row in rows:
        if row.digest and row.digest not in have:
            missing.setdefault(row.digest, Pending(row.digest, root / row.sample.path, row.digest in refused))
    return sorted(missing.values(), key=lambda pending: pending.retried)
