"""Manifests: which samples there are, with their labels and splits.

A manifest is read from one of

- a folder of class folders (``cats/1.jpg``),
- a folder with ``train/ val/ test/`` above class folders (``train/cats/1.jpg``),
- a flat folder of images (no labels),
- a CSV, TSV, JSONL or Parquet table with the column ``path`` and optionally ``id``, ``label`` and ``split``;
  relative paths start at the table's own folder.

Where images have several labels, the cell holds them between semicolons: ``cat;dog``, or ``;`` for none of them.

Samples are sorted by id, which is the relative POSIX path unless the table has a column ``id``.
"""

from featurepipe.manifests.gathering import gather
from featurepipe.manifests.labels import assign_splits, check_labels, hold_out
from featurepipe.manifests.labelsets import check_label_sets, read_set, write_set
from featurepipe.manifests.reading import SPLITS, Manifest, read
from featurepipe.manifests.samples import Sample, Samples
from featurepipe.manifests.tables import TABLE_SUFFIXES, cell_text, check_columns, require_pyarrow, table_rows

__all__ = [
    "SPLITS",
    "TABLE_SUFFIXES",
    "Manifest",
    "Sample",
    "Samples",
    "assign_splits",
    "cell_text",
    "check_columns",
    "check_label_sets",
    "check_labels",
    "gather",
    "hold_out",
    "read",
    "read_set",
    "require_pyarrow",
    "table_rows",
    "write_set",
]
