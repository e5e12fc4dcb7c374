"""One HDF5 file of many embeddings: write, read, check. This docstring is the format's specification.

A shard (``encoding-type`` "featurepipe-shard", ``encoding-version`` "1.0") is an HDF5 file in the file format of
HDF5 1.10, whose metadata carry checksums of their own, so that a damaged file is refused and not followed astray.
All text is UTF-8 of fixed length, padded with NUL. It has

root attributes
    - ``encoding-type``, ``encoding-version``: text. A reader MUST refuse a major version above its own.
    - ``fingerprint``: text, the sha256 of ``spec``. MUST be checked against it.
    - ``spec``: text, canonical JSON, everything that decides a vector.
    - ``provenance``: text, JSON, how the shard was made: ``name``, ``source``, library versions, device, batch
      size, time, and the ``seconds`` that its rows took. It decides nothing, and readers MAY ignore it.

datasets, contiguous and uncompressed (so that embeddings MAY be memory-mapped)
    - ``embeddings``: (rows, width), little-endian float32 or float16, converted before HDF5 sees it.
    - ``digests``: (rows, 32) uint8, sha256 of each image file's bytes. A digest MUST NOT stand twice.
    - ``checksums``: (rows,) uint32, CRC-32 of digest bytes followed by embedding bytes, row by row.
    - ``reject_digests``: (rejects, 32) uint8, contents that were tried and gave no embedding.
    - ``reject_reasons``: (rejects,) UTF-8 text.

A shard MAY hold no rows, if all that was tried was rejected. It is written beside its final name, closed, synced,
read back and checked, renamed, and its folder synced; a finished shard is never modified.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.digests import canonical_json, sha256_json
from featurepipe.errors import FormatTooNew, ShardCorrupt, ShardUnreadable, StoreError
from featurepipe.files import atomic

ENCODING_TYPE = "featurepipe-shard"
ENCODING_VERSION = "1.0"
BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY)  # what a lock of another program gives
BARRED = (errno.EACCES, errno.EPERM)
FLAGGED = "consistency flags"  # what HDF5 says of a file that a writer has marked as its own, without a number
WRONG = (errno.EINVAL, errno.EISDIR, errno.EOVERFLOW)  # a damaged file sends its reader to places that are none


@dataclass(frozen=True)
class Shard:
    """The content of one shard.

    Attributes
    ----------
    spec : dict
        Of the backbone that made the vectors.
    provenance : dict
        How, when and with what the shard was made.
    embeddings : ndarray of float32 or float16, shape (rows, width)
    digests : ndarray of uint8, shape (rows, 32)
    rejects : dict
        Hexadecimal digest → reason, of contents that gave no embedding.
    """

    spec: dict[str, Any]
    provenance: dict[str, Any]
    embeddings: np.ndarray
    digests: np.ndarray
    rejects: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)


def write(path: Path, shard: Shard) -> None:
    """Write a shard atomically, and read it back before it gets its name.

    Raises
    ------
    OutputError
        The disk is full, or may not be written.
    ShardCorrupt
        What the disk gave back is not what was written.
    """
    with atomic(path, verify=partial(_read_back, path)) as temporary:
        temporary.write_bytes(_image(path.name, shard))


def _read_back(path: Path, temporary: Path) -> None:
    try:
        read(temporary)
    except ShardCorrupt as error:
        raise ShardCorrupt(
            f"{path} was not written: the disk gave back something else ({error}); check it, and run the command again"
        ) from error


def _image(name: str, shard: Shard) -> bytes:
    """The file's bytes. HDF5 makes them in memory: writing to a disk that is full, it may lose some and not say so."""
    import h5py

    with h5py.File(name, "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs["encoding-type"] = _texts(ENCODING_TYPE)
        file.attrs["encoding-version"] = _texts(ENCODING_VERSION)
        file.attrs["fingerprint"] = _texts(shard.fingerprint)
        file.attrs["spec"] = _texts(canonical_json(shard.spec))
        file.attrs["provenance"] = _texts(canonical_json(shard.provenance))
        file["embeddings"] = shard.embeddings
        file["digests"] = shard.digests
        file["checksums"] = checksums(shard.digests, shard.embeddings)
        file["reject_digests"] = digest_array(shard.rejects)
        file["reject_reasons"] = _texts(list(shard.rejects.values()))
        file.flush()
        return file.id.get_file_image()


@dataclass(frozen=True)
class ShardIndex:
    """All of a shard but its embeddings.

    Attributes
    ----------
    path : Path
    spec, provenance, digests, rejects
        As in `Shard`.
    width : int
        Length of one embedding.
    dtype : str
        ``float32`` or ``float16``.
    """

    path: Path
    spec: dict[str, Any]
    provenance: dict[str, Any]
    digests: np.ndarray
    rejects: Mapping[str, str]
    width: int
    dtype: str


def read(path: Path) -> Shard:
    """Read a shard and compare every row with its checksum.

    Raises
    ------
    ShardCorrupt
        Not HDF5, not a shard, parts missing or of the wrong shape, or content that fails its checksum.
    ShardUnreadable
        Locked by another program, without permission, gone, or on a disk that fails: its content was not seen.
    FormatTooNew
        Written by a later featurepipe.
    """
    with _opened(path) as file:
        index = _index(path, file)
        embeddings, sums = file["embeddings"][()], file["checksums"][()]
    wrong = np.flatnonzero(checksums(index.digests, embeddings) != sums)
    if len(wrong):
        raise ShardCorrupt(f"{path}: {len(wrong)} rows fail their checksum, first row {wrong[0]}; {_mend(path)}")
    return Shard(index.spec, index.provenance, embeddings, index.digests, index.rejects)


def read_index(path: Path) -> ShardIndex:
    """Read all of a shard but its embeddings; raises as `read`, but compares no checksums."""
    with _opened(path) as file:
        return _index(path, file)


@dataclass(frozen=True)
class Reader:
    """Reads single rows of a shard, each compared with its checksum.

    It opens the file anew each time: nothing is held of it in between but what the system caches, and threads may
    share a reader.

    Attributes
    ----------
    index : ShardIndex
    sums : ndarray of uint32, shape (rows,)
        The checksums.
    offset : int
        Where in the file the embeddings begin.
    """

    index: ShardIndex
    sums: np.ndarray
    offset: int

    @classmethod
    def open(cls, path: Path) -> Reader:
        """Raises as `read`, but compares no checksums yet."""
        with _opened(path) as file:
            index, offset = _index(path, file), file["embeddings"].id.get_offset()
            if offset is None and len(index.digests):
                raise ShardCorrupt(f"{path}: its embeddings are not contiguous; {_mend(path)}")
            return cls(index, file["checksums"][()], offset or 0)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings (n, width) of these rows (n,), in their order.

        Raises
        ------
        ShardCorrupt
            The file is cut short, or a row fails its checksum.
        ShardUnreadable
            The file is gone, or the system does not give it out.
        """
        path, found = self.index.path, np.empty((len(rows), self.index.width), np.dtype(self.index.dtype))
        try:
            with open(path, "rb", buffering=0) as file:
                for row, vector in zip(rows.tolist(), found, strict=True):
                    file.seek(self.offset + row * vector.nbytes)
                    if file.readinto(vector) != vector.nbytes:
                        raise ShardCorrupt(f"{path} is cut short; {_mend(path)}")
        except OSError as error:
            if isinstance(error, ShardCorrupt):
                raise
            raise _unread(path, error) from error
        wrong = np.flatnonzero(checksums(self.index.digests[rows], found) != self.sums[rows])
        if len(wrong):
            raise ShardCorrupt(f"{path}: row {rows[wrong[0]]} fails its checksum; {_mend(path)}")
        return found


def checksums(digests: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """CRC-32 of each row's digest and embedding bytes; uint32 of shape (rows,)."""
    pairs = zip(np.ascontiguousarray(digests), np.ascontiguousarray(embeddings), strict=True)
    sums = [zlib.crc32(row, zlib.crc32(digest)) for digest, row in pairs]
    return np.array(sums, np.uint32)


def digest_array(digests: Iterable[str]) -> np.ndarray:
    """Hexadecimal digests as uint8 of shape (n, 32)."""
    return np.frombuffer(b"".join(bytes.fromhex(digest) for digest in digests), np.uint8).reshape(-1, 32)


def _texts(values: str | list[str]) -> np.ndarray:
    """UTF-8 text of fixed length: HDF5 keeps it in place, where text of any length would need its unchecked heap."""
    import h5py

    encoded = np.char.encode(np.array(values, np.str_), "utf-8")
    return encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a shard for reading; whatever h5py or JSON stumble over in its content means that it is corrupt."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (ShardCorrupt, FormatTooNew):
        raise
    except OSError as error:
        raise _unread(path, error) from error
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ShardCorrupt(f"{path} cannot be read ({error}); {_mend(path)}") from error


def _unread(path: Path, error: OSError) -> StoreError:
    """What an error of reading means: h5py gives those of the system a number, and those of a wrong content none."""
    if FLAGGED in str(error):
        return ShardUnreadable(
            f"{path} is open for writing in another program, or was when that ended; close it there, or clear its mark "
            "with h5clear -s, or remove the file and run featurepipe extract again"
        )
    if error.errno in (None, *WRONG):
        return ShardCorrupt(f"{path} cannot be read ({error}); {_mend(path)}")
    if error.errno in BUSY:
        return ShardUnreadable(f"{path} is locked by another program; wait for it, or close it there")
    if error.errno in BARRED:
        return ShardUnreadable(f"{path} may not be read ({os.strerror(error.errno)}); change its rights")
    if error.errno == errno.ENOENT:
        return ShardUnreadable(f"{path} is gone; run featurepipe extract again")
    why = os.strerror(error.errno)
    return ShardUnreadable(f"{path} cannot be read now ({why}); check the disk, or remove the file and extract again")


def _index(path: Path, file: Any) -> ShardIndex:
    kind, version = _attribute(file, "encoding-type"), _attribute(file, "encoding-version")
    if kind != ENCODING_TYPE:
        raise ShardCorrupt(f"{path} is not a featurepipe shard (encoding-type {kind!r}); {_mend(path)}")
    if int(version.split(".")[0]) > int(ENCODING_VERSION.split(".")[0]):
        raise FormatTooNew(f"{path} has shard format {version}, this featurepipe reads {ENCODING_VERSION}; upgrade it")
    spec = json.loads(_attribute(file, "spec"))
    if sha256_json(spec) != _attribute(file, "fingerprint"):
        raise ShardCorrupt(f"{path}: its spec does not match its fingerprint; {_mend(path)}")
    embeddings, digests = file["embeddings"], file["digests"][()]
    rows = len(digests)
    refused = [row.tobytes().hex() for row in file["reject_digests"][()]]
    reasons = list(file["reject_reasons"].asstr()[()])
    shapes = (len(embeddings.shape), len(embeddings), digests.shape[1:], len(file["checksums"]), len(reasons))
    kinds = digests.dtype == np.uint8 and embeddings.dtype in (np.float32, np.float16)
    if shapes != (2, rows, (32,), rows, len(refused)) or not kinds:
        raise ShardCorrupt(f"{path}: its parts do not fit together; {_mend(path)}")
    return ShardIndex(
        path=path,
        spec=spec,
        provenance=json.loads(_attribute(file, "provenance")),
        digests=digests,
        rejects=dict(zip(refused, reasons, strict=True)),
        width=embeddings.shape[1],
        dtype=embeddings.dtype.name,
    )


def _attribute(file: Any, name: str) -> str:
    value = file.attrs.get(name, b"")
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _mend(path: Path) -> str:
    return f"set it aside with: featurepipe verify --repair {path.parent.parent}"
