"""Stores: a directory that holds a manifest and, side by side, the shards of any number of backbones.

::

    STORE/store.json                       format version, and the folder that the samples lie in
    STORE/manifest.csv                     id, path, label, split, digest: what the data set is now
    STORE/<backbone>-<fingerprint8>/shard-NNNNN.h5
    STORE/rejects.csv                      id, reason: what the last extraction could not embed
    STORE/.gitignore                       ``*``

Embeddings are keyed by the sha256 of each file's bytes: a renamed file is a hit, an edited one a miss, a duplicate
is computed once, and a new label never needs new embeddings. What is still missing is derived from the shards
themselves, so there is no second record that could disagree with them.
"""

from featurepipe.stores.directory import Entry, Row, Store
from featurepipe.stores.planning import Pending, digest_rows, plan
from featurepipe.stores.writing import Writer

__all__ = ["Entry", "Pending", "Row", "Store", "Writer", "digest_rows", "plan"]
