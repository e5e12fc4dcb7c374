"""Stores: a directory that holds a manifest and, side by side, the shards of any number of backbones.

::

    STORE/store.json                       format version, and the folder that the samples lie in: its path, and that
                                           from the store, which counts where both have been moved
    STORE/manifest.csv                     id, path, label, split, digest, size, mtime_ns, ctime_ns, inode: the data set
    STORE/<backbone>[.<stage>]-<fingerprint8>/shard-NNNNN.h5
    STORE/rejects.csv                      id, reason: what the last extraction could not embed
    STORE/.gitignore                       ``*``

Embeddings are keyed by the sha256 of each file's bytes: a renamed file is a hit, an edited one a miss, a duplicate
is computed once, and a new label never needs new embeddings. What is still missing is derived from the shards
themselves, so there is no second record that could disagree with them.

The format's version is 1.1. Since 1.1 the manifest has the columns ``size``, ``mtime_ns``, ``ctime_ns`` and ``inode``:
a file that still has all four is not read again to take its digest. They are empty where they prove nothing, because
the file had just been modified when it was read. A store of 1.0 lacks them; it is read all the same, has no such short
cut, and becomes one of 1.1 at the next extraction. Readers of 1.0 read 1.1, for whom these are four more columns.
"""

from featurepipe.stores.directory import Store
from featurepipe.stores.entries import Entry
from featurepipe.stores.manifest import Known
from featurepipe.stores.planning import Pending, Plan, digest_rows, plan
from featurepipe.stores.rows import Row, Rows
from featurepipe.stores.writing import Writer, Writers

__all__ = ["Entry", "Known", "Pending", "Plan", "Row", "Rows", "Store", "Writer", "Writers", "digest_rows", "plan"]
