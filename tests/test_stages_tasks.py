"""The stage probe_tasks: labels from a table's columns."""

import csv
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from featurepipe import extract, manifests, matrices, models, probe, probe_tasks, report
from featurepipe.errors import ManifestError, ProbeError
from featurepipe.stages import Listener, extractions, tasks
from featurepipe.stores import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def stored(photos, tmp_path):
    """Factory of stores of raw pixels of made-up photos, and the ids in them."""

    def make(splits=(), classes=("ant", "bee", "cat"), per_class=8):
        store = extract(photos(classes, per_class, splits), tmp_path / "s", backbone="pixels", workers=1)["store"]
        return store, [row.sample.id for row in Store.open(store).rows()]

    return make


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def animals(ids, key="id"):
    """Labels of two tasks: the class folder, and whether it is an insect."""
    names = [next(part for part in id_.split("/") if part in ("ant", "bee", "cat")) for id_ in ids]
    return [{key: id_, "animal": name, "insect": str(name != "cat")} for id_, name in zip(ids, names, strict=True)]


QUICK = {"kind": "ridge", "baselines": "none"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("key", ["id", "path"])
def test_each_task_is_the_probe_of_its_labels(stored, tmp_path, suffix, key):
    store, ids = stored(("train", "val", "test"))
    table = write(tmp_path / f"t{suffix}", animals(ids, key))
    result = probe_tasks(store, tmp_path / "m.safetensors", labels=table, tasks="animal, insect", **QUICK)
    alone = probe(store, tmp_path / "alone.safetensors", **QUICK)  # whose labels are the folders
    animal, insect = result["tasks"]["animal"], result["tasks"]["insect"]
    assert list(result["tasks"]) == ["animal", "insect"]
    own = {"model", "data", "created", "seconds"}
    assert {k: v for k, v in animal.items() if k not in own} == {k: v for k, v in alone.items() if k not in own}
    assert (animal["data"]["task"], animal["data"]["labels"]) == ("animal", str(table))
    assert animal["model"] == str(tmp_path / "m-animal.safetensors")
    assert models.load(insect["model"]).classes.tolist() == ["False", "True"]
    assert insect["test"]["n"] == 24
    assert not result["notes"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "animal of" in (tmp_path / report(animal["model"], tmp_path / "r.html")["report"]).read_text("utf-8")


def test_by_default_the_models_lie_in_the_backbones_folder(stored, tmp_path):
    store, ids = stored(("train", "test"))
    result = probe_tasks(store, labels=write(tmp_path / "t.csv", animals(ids)), tasks=["insect"], **QUICK)
    folder = Store.open(store).choose("pixels").folder
    assert result["tasks"]["insect"]["model"] == str(folder / "model-insect.safetensors")


def test_one_task_is_split_as_probe_would(stored, tmp_path):
    store, ids = stored()
    table = write(tmp_path / "t.csv", animals(ids))
    one = probe_tasks(store, labels=table, tasks="animal", seed=3, **QUICK)["tasks"]["animal"]
    alone = probe(store, tmp_path / "alone.safetensors", seed=3, **QUICK)
    assert one["split_source"] == alone["split_source"] == "made here: 60/20/20, stratified, seed 3"
    assert one["test"] == alone["test"]


def test_several_tasks_share_splits_that_are_made(stored, tmp_path):
    store, ids = stored(per_class=20)
    rows = animals(ids)
    for i, row in enumerate(rows):
        row["animal"] = "" if i % 5 == 0 else row["animal"]
        row["insect"] = "" if i % 7 == 0 else row["insect"]
    table = write(tmp_path / "t.csv", rows)
    found = probe_tasks(store, labels=table, tasks="animal,insect", seed=1, **QUICK)["tasks"]
    opened = Store.open(store)
    m = matrices.load(opened, opened.choose("pixels"))
    seen = {name: set(m.ids[models.load(found[name]["model"]).has_seen(m.digests)]) for name in found}
    used = {name: {row["id"] for row in rows if row[name]} for name in found}
    held_out = {name: used[name] - seen[name] for name in found}
    assert all(held_out.values())
    assert not held_out["animal"] & seen["insect"]
    assert not held_out["insect"] & seen["animal"]
    assert {one["split_source"] for one in found.values()} == {"made here: 60/20/20 by content, seed 1"}
    assert sum(found["animal"]["splits"].values()) == len(used["animal"])


def test_tasks_and_their_baselines_embed_nothing_again(stored, tmp_path, monkeypatch):
    store, ids = stored(("train", "test"))
    extract(tmp_path / "photos", store, backbone="color-histogram", workers=1)
    fills, real = [], extractions.fill
    monkeypatch.setattr(extractions, "fill", lambda *of, **how: fills.append(of[4].name) or real(*of, **how))
    table = write(tmp_path / "t.csv", animals(ids))
    result = probe_tasks(store, labels=table, tasks="animal,insect", backbone="color-histogram", kind="ridge")
    assert fills == []  # the store holds both
    for task, labels in (("animal", 3), ("insect", 2)):
        assert len(result["tasks"][task]["test"]["classes"]) == labels
        assert result["tasks"][task]["baselines"]["pixels"] is not None
    alone = probe_tasks(store, labels=table, tasks="insect", backbone="color-histogram", kind="ridge")
    assert alone["tasks"]["insect"]["baselines"] == result["tasks"]["insect"]["baselines"]


def test_a_task_that_the_common_splits_leave_nothing_to_measure_is_refused(stored, tmp_path):
    store, ids = stored()
    rows = animals(ids)
    opened = Store.open(store)
    m = matrices.load(opened, opened.choose("pixels"))
    split = manifests.assign_splits([""] * len(m), m.digests, seed=0)
    train = {id_ for id_, part in zip(m.ids, split, strict=True) if part == "train"}
    few = [{**row, "insect": row["insect"] if row["id"] in train else ""} for row in rows]
    with pytest.raises(ManifestError, match=r"task insect: all of its \d+ labelled samples fall into train"):
        probe_tasks(store, labels=write(tmp_path / "few.csv", few), tasks="animal,insect", **QUICK)


def test_sets_of_labels_in_a_column(stored, tmp_path):
    store, ids = stored(("train", "test"))
    rows = [{**row, "tags": {"ant": "a;b", "bee": "b", "cat": ";"}[row["animal"]]} for row in animals(ids)]
    table = write(tmp_path / "t.csv", rows)
    result = probe_tasks(store, labels=table, tasks="tags", multi_label=True, baselines="none")["tasks"]["tags"]
    assert result["kind"] == "multi-label"
    assert list(result["C"]) == ["a", "b"]


def test_test_labels_change_nothing_but_the_test_figures(stored, tmp_path):
    store, ids = stored(("train", "test"))
    rows, heads = animals(ids), []
    for turned in (False, True):
        for row in rows:
            if turned and row["id"].startswith("test/"):
                row["insect"] = "False" if row["insect"] == "True" else "True"
        table = write(tmp_path / "t.csv", rows)
        result = probe_tasks(store, labels=table, tasks="insect", **QUICK)["tasks"]["insect"]
        heads.append((models.load(result["model"]).estimator.coef_.tolist(), result["alpha"]))
    assert heads[0] == heads[1]


def test_rows_and_samples_without_each_other_are_noted(stored, tmp_path):
    store, ids = stored(("train", "test"))
    rows = [*animals(ids)[2:], {"id": "new/1.png", "animal": "ant", "insect": "True"}]
    heard = []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    table = write(tmp_path / "t.csv", rows)
    result = probe_tasks(store, labels=table, tasks="animal", listener=Ears(), **QUICK)
    assert result["notes"] == [
        f"2 of 48 samples have no row in {table}: unlabelled",
        f"1 rows of {table} do not belong to any sample of the store (first 'new/1.png')",
    ]
    assert all(f"note: {note}" in heard for note in result["notes"])
    assert sum(result["tasks"]["animal"]["splits"].values()) == 46
    assert "2 samples without a label are left out" in result["tasks"]["animal"]["notes"]


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        (lambda rows: rows, "colour", r"t.csv has no column 'colour' \(its columns: id, animal, insect\)"),
        (lambda rows: [*rows, {**rows[0], "animal": "x"}], "animal", r"several rows with different labels"),
        (lambda rows: [{**row, "id": f"x{row['id']}"} for row in rows], "animal", "has no row of any sample"),
        (lambda rows: [{"file": "x", "animal": row["animal"]} for row in rows], "animal", "neither 'id' nor 'path'"),
        (lambda rows: [{**row, "animal": "ant"} for row in rows], "insect,animal", "task animal: only one class"),
        (lambda rows: [{**row, "animal": ""} for row in rows], "insect,animal", "task animal: no sample has a label"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused_before_anything_is_fitted(
    stored, tmp_path, monkeypatch, change, asked, message
):
    store, ids = stored(("train", "test"))
    monkeypatch.setattr(tasks, "probe_prepared", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(ManifestError, match=message):
        probe_tasks(store, labels=write(tmp_path / "t.csv", change(animals(ids))), tasks=asked, **QUICK)


def test_tables_are_forgiven_what_manifests_are(stored, tmp_path):
    store, ids = stored(("train", "test"))
    rows = animals(ids)
    plain = probe_tasks(store, labels=write(tmp_path / "t.csv", rows), tasks="animal", **QUICK)
    lines = ["ID; Animal", *(f"{row['id']};{row['animal']} " for row in [*rows, rows[0]]), ";", f"{rows[-1]['id']}; NA"]
    odd = tmp_path / "odd.csv"
    odd.write_text("\n".join(lines[:-1]))
    result = probe_tasks(store, labels=odd, tasks="animal", **QUICK)
    assert result["tasks"]["animal"]["test"] == plain["tasks"]["animal"]["test"]
    assert "left out: 1 row that repeats another, 1 blank row" in result["notes"]
    odd.write_text("\n".join(lines))
    with pytest.raises(ManifestError, match="several rows with different labels"):
        probe_tasks(store, labels=odd, tasks="animal", **QUICK)


def test_shots_that_one_task_lacks_are_refused_before_another_is_fitted(stored, tmp_path, monkeypatch):
    store, ids = stored(("train", "test"))
    rows = [{**row, "rare": str(i == ids.index("train/ant/0.jpg"))} for i, row in enumerate(animals(ids))]
    table = write(tmp_path / "t.csv", rows)
    monkeypatch.setattr(tasks, "probe_prepared", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(ProbeError, match="class 'True' has 1 training sample, fewer than 2 shots"):
        probe_tasks(store, labels=table, tasks="animal,rare", shots=[2], **QUICK)


def test_other_wrong_words(stored, tmp_path):
    store, ids = stored(("train", "test"))
    rows = [{**row, "a/b": row["animal"], "a b": row["animal"]} for row in animals(ids)]
    table = write(tmp_path / "t.csv", rows)
    with pytest.raises(ProbeError, match="no task is named"):
        probe_tasks(store, labels=table, tasks=" , ")
    with pytest.raises(ProbeError, match="named twice in animal, animal"):
        probe_tasks(store, labels=table, tasks=["animal", "animal"])
    with pytest.raises(ProbeError, match=r"'a/b' and 'a b' would both be written to model-a-b\.safetensors"):
        probe_tasks(store, labels=table, tasks=["a/b", "a b"])
    with pytest.raises(ManifestError, match=r"no.csv does not exist"):
        probe_tasks(store, labels=tmp_path / "no.csv", tasks="animal")
    (tmp_path / "t.txt").write_text("id\n")
    with pytest.raises(ManifestError, match=r"read from a table .*t.txt is not one"):
        probe_tasks(store, labels=tmp_path / "t.txt", tasks="animal")
    (tmp_path / "e.csv").write_text("id,animal\n")
    with pytest.raises(ManifestError, match=r"e.csv has no rows"):
        probe_tasks(store, labels=tmp_path / "e.csv", tasks="animal")
    (tmp_path / "w.csv").write_text("id,animal\na,b,c\n")
    with pytest.raises(ManifestError, match=r"row 1 \(a\) has more cells than the header"):
        probe_tasks(store, labels=tmp_path / "w.csv", tasks="animal")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=r"has no column 'animal' \(its columns: id\)"):
        probe_tasks(store, labels=tmp_path / "t.parquet", tasks="animal")
    with pytest.raises(ProbeError, match="'tree' is unknown"):
        probe_tasks(store, labels=table, tasks="animal", kind="tree")


def test_numbers_with_gaps_are_whole_in_every_format(stored, tmp_path):
    store, ids = stored(("train", "test"))
    rows = [{"id": id_, "size": None if i == 0 else float(i % 2)} for i, id_ in enumerate(ids)]
    for suffix in (".csv", ".jsonl", ".parquet"):
        table = write(tmp_path / f"t{suffix}", rows)
        result = probe_tasks(store, labels=table, tasks="size", **QUICK)["tasks"]["size"]
        classes = ["0.0", "1.0"] if suffix == ".csv" else ["0", "1"]
        assert result["test"]["classes"] == classes
    assert np.isfinite(result["test"]["log_loss"])
