"""Stores: a directory that holds a manifest and, side by side, the shards of any number of backbones.

``docs/format.md`` is the specification; this is its short form::

    STORE/store.json                       format version, the folder that the samples lie in (its path, and that from
                                           the store, which counts where both have been moved), the manifest's sha256,
                                           and the sha256 of all that
    STORE/manifest.csv                     id, path, label, split, digest, size, mtime_ns, ctime_ns, inode, part, group
    STORE/<backbone>[.<stage>]-<fingerprint8>/shard-NNNNN.h5
    STORE/manifest.csv.journal             digests of files that were read for the next manifest, in case of a kill
    STORE/rejects.csv                      id, reason: what the last extraction could not embed, for people to read
    STORE/.gitignore                       ``*``

Embeddings are keyed by the sha256 of each file's bytes: a renamed file is a hit, an edited one a miss, a duplicate
is computed once, and a new label never needs new embeddings. What is still missing is derived from the shards
themselves, so there is no second record that could disagree with them.

The format's version is 1.2.

- Since 1.1 the manifest has the columns ``size``, ``mtime_ns``, ``ctime_ns`` and ``inode``: a file that still has all
  four is not read again to take its digest. They are empty where they prove nothing, because the file had just been
  modified when it was read.
- Since 1.2 the header has the manifest's digest and its own, and every reader compares them. While the manifest is
  being replaced the header describes the old and the new one, so that a kill at any moment leaves one of the two. An
  edit by hand has to be accepted (`Store.accept_edits`). The columns ``group`` and ``part`` are new: the vector of a
  part is not that of the file's digest, but of the digest and the part (`featurepipe.digests.sha256_part`). Where the
  samples are not files, the header has the kind of their source.

Stores of 1.0 and 1.1 are read as they were, unchecked, and become 1.2 at the next extraction. Readers of 1.0 and 1.1
read 1.2, for which these are more columns and keys.
"""

from featurepipe.stores.directory import Store
from featurepipe.stores.entries import Entry, JointEntry
from featurepipe.stores.journals import Journal
from featurepipe.stores.manifest import Known
from featurepipe.stores.plans import Holdings, Pending, Plan, Seen, plan
from featurepipe.stores.rows import Row, Rows
from featurepipe.stores.surveys import Survey, digest_rows
from featurepipe.stores.writers import Writer, Writers

__all__ = [
    "Entry",
    "Holdings",
    "JointEntry",
    "Journal",
    "Known",
    "Pending",
    "Plan",
    "Row",
    "Rows",
    "Seen",
    "Store",
    "Survey",
    "Writer",
    "Writers",
    "digest_rows",
    "plan",
]
