"""Manifests: which samples there are, with their labels and splits.

A manifest is read from one of

- a folder of class folders (``cats/1.jpg``),
- a folder with ``train/ val/ test/`` above class folders (``train/cats/1.jpg``),
- a flat folder of images (no labels),
- an archive of any of these, or what else `featurepipe.sources.open_container` knows,
- a CSV, TSV, JSONL or Parquet table with the column ``path`` and optionally ``id``, ``label``, ``split``, ``group`` and
  ``part`` (of an image, a box ``x0,y0,x1,y1``, which may also be four columns);
  relative paths start at the table's own folder. A CSV may be separated by commas, semicolons or tabs.

Splits may also be called training, valid, validation, dev, development and testing, in any case.

What a folder or a table holds and the manifest does not is counted in its `LeftOut`; `describe` and `summarise` say it.

Where images have several labels, the cell holds them between semicolons: ``cat;dog``, or ``;`` for none of them.

Samples are sorted by id, which is the relative POSIX path unless the table has a column ``id``; of a part, the path, a
``#`` and the part.
"""

from featurepipe.manifests.copies import contradiction_notes, contradictions, meaning
from featurepipe.manifests.groups import check_groups, count_groups, units
from featurepipe.manifests.headers import header
from featurepipe.manifests.labels import assign_splits, check_labels, hold_out
from featurepipe.manifests.labelsets import check_label_sets, read_set, write_set
from featurepipe.manifests.leftovers import LeftOut
from featurepipe.manifests.manifest import Manifest, read
from featurepipe.manifests.samples import Sample, Samples
from featurepipe.manifests.splits import SPLITS
from featurepipe.manifests.summaries import describe, read_aloud, summarise
from featurepipe.manifests.unions import gather

__all__ = [
    "SPLITS",
    "LeftOut",
    "Manifest",
    "Sample",
    "Samples",
    "assign_splits",
    "check_groups",
    "check_label_sets",
    "check_labels",
    "contradiction_notes",
    "contradictions",
    "count_groups",
    "describe",
    "gather",
    "header",
    "hold_out",
    "meaning",
    "read",
    "read_aloud",
    "read_set",
    "summarise",
    "units",
    "write_set",
]
