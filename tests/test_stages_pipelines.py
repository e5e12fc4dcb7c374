"""The stages run and report: everything in one go."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from featurepipe import TransferClassifier, evaluate, report, run
from featurepipe.errors import ManifestError, ModelFileError
from featurepipe.stages import Listener

QUICK = {"kind": "ridge", "baselines": "none", "device": "cpu", "workers": 1}
TINY = {"backbone": "test_resnet", "random_weights": True, "transform": {"input_size": (3, 32, 32)}}


@pytest.mark.slow
def test_run_merges_the_stages_results(photos, tmp_path):
    result = run(photos(per_class=5), tmp_path / "out", backbone="pixels", **QUICK)
    assert {"extract", "probe", "evaluate", "report", "seconds"} <= set(result)
    assert {"store", "backbone", "fingerprint", "samples", "computed", "reused", "rejected", "device"} <= set(result)
    assert {"model", "alpha", "splits", "val", "test", "baselines", "top1", "log_loss", "ece"} <= set(result)
    assert result["top1"] == result["evaluate"]["top1"] == result["probe"]["test"]["top1"] == result["test"]["top1"]
    assert result["seconds"] >= sum(result[stage]["seconds"] for stage in ("extract", "probe", "evaluate")) - 0.01
    folder = tmp_path / "out" / f"pixels-{result['fingerprint'][:8]}"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "report.html", "metrics.json"}
    assert result["model"] == str(folder / "model.safetensors")
    assert result["report"] == str(folder / "report.html")
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert (tmp_path / "out" / "store" / "store.json").is_file()
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_says_the_same(photos, tmp_path):
    data = photos(per_class=5)
    first, second = (run(data, tmp_path / "out", backbone="pixels", **QUICK) for _ in range(2))
    assert (first["computed"], second["computed"], second["reused"]) == (10, 0, 10)
    assert first["test"] == second["test"]


def test_rejects_of_the_extraction_stay_in_the_merged_result(photos, tmp_path):
    data = photos(per_class=5)
    (data / "ant" / "bad.jpg").write_bytes(b"")
    result = run(data, tmp_path / "out", backbone="pixels", **QUICK)
    assert (result["rejected"], list(result["rejects"])) == (1, ["ant/bad.jpg"])


@pytest.mark.slow
def test_the_seed_reaches_every_draw(photos, tmp_path):
    data = photos(per_class=5)
    one, two = (run(data, tmp_path / "out", **TINY, **QUICK, seed=seed) for seed in (1, 2))
    assert one["backbone"] == "test_resnet (random weights, seed 1)"
    assert one["fingerprint"] != two["fingerprint"]
    assert "seed 2" in two["split_source"]
    assert Path(one["model"]).parent.parent == Path(two["model"]).parent.parent


def test_without_an_output_the_folder_has_the_datas_name(photos, tmp_path, monkeypatch):
    data = photos(per_class=5, name="birds")
    monkeypatch.chdir(tmp_path)
    result = run(data, backbone="pixels", **QUICK)
    assert Path(result["store"]) == Path("birds.featurepipe/store")
    assert (tmp_path / "birds.featurepipe" / "store" / "manifest.csv").is_file()


@pytest.mark.slow
def test_the_first_things_said_are_what_was_found_and_device_precision_backbone_samples_cached(photos, tmp_path):
    heard = []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    data = photos(per_class=5)
    for path in data.rglob("*.*"):
        os.utime(path, (10**9, 10**9))  # a file that has just been written is read again the next time
    for _ in range(2):
        run(data, tmp_path / "out", backbone="pixels", listener=Ears(), **QUICK)
    lines = [line for line in heard if " on cpu" in line]
    assert heard[:2] == ["found 10 images of 2 classes: ant (5), bee (5)", lines[0]]
    assert lines[0] == "10 images · pixels on cpu · none in the store yet"
    assert lines[1] == "10 images · pixels on cpu · all in the store already"


def test_a_note_is_heard_once(photos, tmp_path):
    heard = []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    data = photos(per_class=5)
    Image.new("RGB", (8, 8)).save(tmp_path / "unlabelled.png")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(data.rglob("*.*"))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows, "unlabelled.png,"]))
    run(tmp_path / "t.csv", tmp_path / "out", backbone="pixels", listener=Ears(), **QUICK)
    assert heard.count("note: 1 samples without a label are left out") == 1


def test_a_report_is_drawn_beside_the_model(photos, tmp_path):
    model = Path(run(photos(per_class=5), tmp_path / "out", backbone="pixels", **QUICK)["model"])
    page = str(model.with_name("report.html"))  # as run calls it
    assert report(model) == {"model": str(model), "report": page, "shown": 10, "missing": None}
    other = model.rename(model.with_name("other.safetensors"))
    assert report(other)["report"] == str(other.with_suffix(".html"))
    model = other.rename(model)
    assert report(model, tmp_path / "r" / "x.html")["report"] == str(tmp_path / "r" / "x.html")
    assert (tmp_path / "r" / "x.html").read_text() == model.with_name("report.html").read_text()


def test_a_notebooks_model_has_no_figures_to_report(photos, tmp_path):
    paths = sorted(photos(per_class=3).rglob("*.*"))
    model = TransferClassifier("pixels", kind="ridge").fit(paths, [path.parent.name for path in paths])
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="holds no figures to report; measure it with: featurepipe evaluate"):
        report(tmp_path / "m.safetensors")
    assert evaluate(tmp_path / "m.safetensors", paths[0].parents[1], split="all")["seen_in_training"] == 6


class Hearing(Listener):
    def __init__(self):
        self.heard = []

    def note(self, text):
        self.heard.append(text)


def test_every_note_is_said_once(photos, tmp_path):
    data = photos(per_class=5)
    for number in range(2):
        (data / "bee" / f"copy{number}.jpg").write_bytes((data / "ant" / f"{number}.jpg").read_bytes())
    lines = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.rglob("*.*")) if path.stem != "4"]
    lines += [f"{name}/4.jpg," for name in ("ant", "bee")]
    (data / "t.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    ears = Hearing()
    result = run(data / "t.csv", tmp_path / "out", backbone="pixels", listener=ears, **QUICK)
    notes = [line for line in ears.heard if line.startswith("note:")]
    assert len(notes) == len(set(notes))
    assert "note: 2 samples without a label are left out" in notes
    copies = (
        "4 images have an exact copy under another label: ant/0.jpg (ant) = bee/copy0.jpg (bee); ant/1.jpg (ant) = "
        "bee/copy1.jpg (bee); "
    )
    assert f"note: {copies}correct the labels or remove the copies" in notes
    assert any(note.startswith(copies) for note in result["probe"]["notes"])
    assert (result["contradictions"], result["found"]["unlabelled"]) == (4, 2)
    assert result["contradictory"] == result["extract"]["contradictory"]
    assert result["contradictory"][1] == [{"id": "ant/1.jpg", "label": "ant"}, {"id": "bee/copy1.jpg", "label": "bee"}]
    assert result["found"]["classes"] == {"ant": 4, "bee": 6}


def test_columns_may_be_named_and_what_is_left_out_stays_in_the_result(photos, tmp_path):
    data = photos(per_class=5)
    lines = [f"{path.relative_to(data)};{path.parent.name};7" for path in sorted(data.rglob("*.*"))]
    (data / "t.csv").write_text("\n".join(["File;Kind;patient", *lines]) + "\n")
    columns = {"path_column": "file", "label_column": "kind"}
    result = run(data / "t.csv", tmp_path / "out", backbone="pixels", **columns, **QUICK)
    assert result["found"]["classes"] == {"ant": 5, "bee": 5}
    assert result["found"]["left_out"]["columns"] == ["patient"]
    assert result["extract"]["found"] == result["found"]
    figures = evaluate(result["model"], data / "t.csv", split="all", **columns)
    assert (figures["found"], figures["with_seen"]["n"]) == (result["found"], 10)


def test_what_is_wrong_is_said_after_what_was_found(photos, tmp_path):
    data = photos(per_class=2)
    for path in (data / "bee").iterdir():
        path.rename(path.with_suffix(".psd"))
    ears = Hearing()
    with pytest.raises(ManifestError, match="only one class"):
        run(data, tmp_path / "out", backbone="pixels", listener=ears, **QUICK)
    assert "note: nothing to read in the folder: bee/ (2 other files)" in ears.heard
