"""The columns of a table, to tell one that featurepipe wrote from somebody else's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from featurepipe.errors import DependencyMissing
from featurepipe.tables import require_pyarrow

LONGEST = 2**24  # characters of a first line: of more than that nobody's table is


def header(path: Path) -> list[str]:
    """Names of the columns of a CSV, JSONL or Parquet table, in order; none where it cannot be read as one."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(require_pyarrow().parquet.read_schema(path).names)
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            line = file.readline(LONGEST)
        return list(json.loads(line)) if path.suffix.lower() == ".jsonl" else next(csv.reader([line]), [])
    except (OSError, ValueError, TypeError, RecursionError, csv.Error, DependencyMissing):
        return []
