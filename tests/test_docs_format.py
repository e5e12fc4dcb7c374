"""docs/format.md says of stores and shards what the code writes."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import featurepipe
from featurepipe import shards
from featurepipe.backbones import Pixels
from featurepipe.manifests import Sample
from featurepipe.sources import Files
from featurepipe.stores import Row, Store, entries, headers, manifest

FORMAT = (Path(featurepipe.__file__).parents[1] / "docs" / "format.md").read_text("utf-8")


def chapter(name):
    """The text below a heading of the second level."""
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", FORMAT, re.MULTILINE | re.DOTALL)[1]


def table(text, first):
    """The rows of the table whose first column has this heading, as lists of cells without backticks."""
    rows = re.search(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows.splitlines()]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "shard-00000.h5"
    made_by = {"name": "pixels", "source": Pixels().source}
    shards.write(
        path, shards.Shard(Pixels().spec, made_by, np.ones((1, 3), np.float32), np.ones((1, 32), np.uint8), {})
    )
    with h5py.File(path) as file:
        yield file


def test_versions():
    assert f"Version {headers.ENCODING_VERSION}." in chapter("Store")
    assert f"Version {shards.ENCODING_VERSION}." in chapter("Shard")
    assert f"tokens has version {shards.TOKENS_VERSION}," in chapter("Shard")


def test_columns_of_the_manifest_and_since_when():
    since = {
        **dict.fromkeys(manifest.FIRST_COLUMNS, "1.0"),
        **dict.fromkeys(manifest.STAMP_COLUMNS, "1.1"),
        **dict.fromkeys(manifest.LATER_COLUMNS, "1.2"),
    }
    assert [tuple(row[:2]) for row in table(chapter("Store"), "column")] == list(since.items())


def test_keys_of_the_header(tmp_path):
    store = Store.create(tmp_path / "s")
    store.write_rows(Files(str(tmp_path)), [Row(Sample("a", "a", None, None), "")])
    told = json.loads((store.path / "store.json").read_text("utf-8"))
    described = table(chapter("Store"), "key")
    assert [row[0] for row in described if row[0] not in ("next", "source")] == list(
        told
    )  # both are there at times only
    values = {row[0]: row[2] for row in described}
    assert [values[key].strip("`") for key in ("encoding-type", "encoding-version")] == list(told.values())[:2]


def test_attributes_of_a_shard(written):
    described = table(chapter("Shard"), "root attribute")
    assert {row[0] for row in described} == set(written.attrs)
    assert [row[0] for row in described if row[1] == "1.0"] == list(shards.ATTRIBUTES)
    values = {row[0]: row[2] for row in described}
    for name in ("encoding-type", "encoding-version"):
        assert values[name] == written.attrs[name].decode()


def test_datasets_of_a_shard(written):
    described = {row[0]: row[2] for row in table(chapter("Shard"), "dataset")}
    assert set(described) == set(written) == set(shards.DTYPES)
    words = {"<f4": "float32", "<f2": "float16", "|u1": "uint8", "<u4": "uint32"}
    for name, dtypes in shards.DTYPES.items():
        assert all(words[dtype] in described[name] for dtype in dtypes)
        assert dtypes or described[name] == "text"


def test_keys_of_spec_and_provenance():
    for name in (*entries.SPEC, *entries.PROVENANCE, *entries.SOURCE):
        assert f"`{name}`" in chapter("Shard")
