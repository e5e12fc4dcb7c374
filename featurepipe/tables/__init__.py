"""Tables that people and programs write: CSV, TSV, JSONL and Parquet, row by row, as columns and cells of text."""

from featurepipe.tables.columns import check_columns, remarks
from featurepipe.tables.formats import require_pyarrow
from featurepipe.tables.rows import TABLE_SUFFIXES, Table

__all__ = ["TABLE_SUFFIXES", "Table", "check_columns", "remarks", "require_pyarrow"]
