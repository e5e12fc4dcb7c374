"""What stages return shows itself, and is a dict all the same."""

import copy
import importlib.util
import json
import pickle
import re
import sys

import pytest

from featurepipe import stages
from featurepipe.errors import DependencyMissing
from featurepipe.results import FACES, Face, StageResult, presented
from featurepipe.results.tables import ROWS, between, html, plain, share, text, to_frame

EVIL = '<img onerror="x">'
FIGURES = {
    "n": 40,
    "top1": 0.9,
    "balanced_accuracy": 0.8,
    "log_loss": 0.25,
    "ece": 0.0123,
    "per_class": {
        EVIL: {"precision": 1.0, "recall": 0.5, "f1": 0.667, "support": 20},
        "b": {"precision": 0.9, "recall": 1.0, "f1": 0.947, "support": 20},
    },
}
SELECTION = {"on": "val", "chosen": 1.0, "path": []}
PROBE = {
    "model": "m.safetensors",
    "backbone": "vit",
    "layer": "penultimate",
    "kind": "ridge",
    "alpha": 1.0,
    "evaluated_on": "test",
    "selection": SELECTION,
    "test": FIGURES,
    "baselines": {"majority": 0.5, "pixels": 0.7, "random_backbone": None},
    "majority_class": EVIL,
    "few_shot": [{"shots": 1, "repeats": 1, "mean": 0.6, "interval": None}],
    "notes": ["3 samples are odd"],
}
LAYER = {
    "layer": "stage1",
    "width": 8,
    "n": 40,
    "top1": 0.9,
    "interval": [0.8, 0.95],
    "chosen": True,
    "selection": None,
}
ROW = {
    **{"label": "vit", "backbone": "vit", "layer": "penultimate", "kind": "ridge", "is_baseline": False},
    **{"selection_top1": None, "n": 40, "top1": 0.9, "interval": [0.8, 0.95], "difference": None, "p_holm": None},
}
SAMPLE = {"id": EVIL, "label": "b", "split": None}
RANGE = {"low": 0.0, "mean": 0.01, "high": 0.02}
EPOCH = {"epoch": 1, "train_loss": 0.5}
RESULTS = {
    "extract": {
        **{"store": "s", "backbone": "vit", "width": 8, "fingerprint": "f", "samples": 1797, "computed": 1797},
        **{"reused": 0, "rejected": 1, "rejects": {EVIL: "broken"}, "seconds": 1.0},
    },
    "info": {
        **{"store": "s", "samples": 3, "classes": 2, "root": EVIL},
        "backbones": [
            {"name": "vit", "layer": "stage1", "rows": 3, "width": 8, "shards": 1, "bytes": 9, "rejected": 0}
        ],
    },
    "verify": {"ok": False, "checked": 3, "problems": [EVIL], "repaired": []},
    "export": {"store": "s", "output": "x.npz", "backbone": "vit", "layer": "stage1", "rows": 3, "width": 8},
    "report": {"model": "m", "report": "r.html", "shown": 3, "missing": None},
    "predict": {"model": "m", "output": None, "predicted": 3, "labels": {EVIL: 1, "b": 2}, "labelled": 2, "right": 1},
    "probe": PROBE,
    "probe_layers": {**PROBE, "layers": [LAYER]},
    "probe_protocol": {**PROBE, "test": None},
    "probe_tasks": {"tasks": {EVIL: PROBE}, "labels": "t.csv", "notes": []},
    "evaluate": {**FIGURES, "model": "m", "split": "test"},
    "run": {**PROBE, "report": "r.html"},
    "compare": {
        **{"rows": [ROW], "evaluated_on": "test", "classes": 2, "reference": None, "notes": [EVIL], "stores": ["s"]},
    },
    "advise": {
        **{
            "option": "linear",
            "layer": "stage1",
            "more_labels": False,
            "warnings": [EVIL],
            "next": "featurepipe probe s",
            "attentive": None,
        },
        **{"expected_gain": {"linear": RANGE, "stage": None}, "cost_minutes": None},
    },
    "audit": {
        **{"store": "s", "samples": 3, "summary": [], "checks": {"labels": {"skipped": "no labels"}}},
        "findings": [{"kind": "odd", "score": 1.0, "samples": [SAMPLE], "suggested_label": None, "reason": "dark"}],
    },
    "search": {
        **{"store": "s", "backbone": "vit", "samples": 3},
        "queries": [{"id": "q", "neighbours": [{**SAMPLE, "similarity": 0.5}]}],
    },
    "label": {"unlabelled": 9, "order": "unsure", "next": [{"id": EVIL, "suggested_label": "b", "confidence": 0.5}]},
    "finetune": {
        **{"backbone": "vit", "evaluated_on": "test", "test": FIGURES, "promoted": True, "tune": "all", "model": EVIL},
        "finetuning": {"stopped": "after all epochs", "probe": {"n": 40, "top1": 0.8, "log_loss": 0.5}},
    },
    "zeroshot": {"model": "m", "backbone": "clip", "classes": {EVIL: "a thing", "b": "b"}},
    "push": {"model": EVIL, "repository": "a/b", "files": ["model.safetensors"], "commit": EVIL},
    "pull": {"repository": "a/b", "model": "m", "kind": EVIL, "classes": 3, "backbone": EVIL},
    "segment": {
        **{"kind": "lda", "backbone": "vit", "miou": 0.8, "pixel_accuracy": 0.9, "n": 9, "evaluated_on": "test"},
        "per_class": {EVIL: {"iou": 0.7, "pixels": 10}, "b": {"iou": None, "pixels": 0}},
    },
    "explain": {
        **{"model": "m", "output": "maps", "explained": 1},
        "images": [{"id": EVIL, "label": "a", "confidence": 0.9, "of": "b", "map": "maps/1.png"}],
    },
    "paint": {
        **{"model": "m", "output": "masks", "painted": 1, "rejects": {}},
        "classes": {EVIL: {"images": 1, "share": 0.25}, "b": {"images": 1, "share": 0.75}},
    },
    "pretrain": {"name": EVIL, "objective": "vicreg", "backbone": "b.safetensors", "curve": [EPOCH]},
}


def shown(verb):
    return StageResult(RESULTS[verb], verb)


def test_every_stage_has_a_face():
    assert FACES.keys() == set(stages.__all__) - {"Listener"} == RESULTS.keys()
    for verb in FACES:
        assert getattr(stages, verb).is_guarded


@pytest.mark.parametrize("verb", FACES)
def test_a_result_is_a_dict_all_the_same_and_shows_itself(verb):
    result, said = shown(verb), RESULTS[verb]
    assert result == said
    assert list(result) == list(said)
    assert json.dumps(result) == json.dumps(said)
    for copied in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert (copied, repr(copied)) == (said, repr(result))
    lines = repr(result).splitlines()
    assert 2 <= len(lines) < 20
    assert not lines[0].startswith("{")
    assert max(map(len, lines)) < 140
    page = result._repr_html_()
    assert "<img" not in page
    assert (EVIL in repr(result)) == ("&lt;img" in page)


def test_a_probe_shows_its_figures_next_to_the_baselines():
    lines = repr(shown("probe")).splitlines()
    assert lines[0] == "ridge probe on vit, alpha=1, 40 test samples"
    assert [re.split(r"  +", line)[1:] for line in lines[1:6]] == [
        ["accuracy", "95 % interval", "balanced", "log-loss", "ECE"],
        ["ridge probe", "90.0 %", "76.9–96.0", "80.0 %", "0.250", "0.012"],
        [f'always answering "{EVIL}"', "50.0 %"],
        ["raw pixels", "70.0 %"],
        ["with 1 label per class", "60.0 %"],
    ]
    assert len({line.index(" %", 40) for line in lines[2:6]}) == 1
    assert "note: 3 samples are odd" in repr(shown("probe"))


def test_sets_of_labels_show_their_mean_average_precision():
    figures = {"n": 9, "map": 0.75, "micro_f1": 0.5, "macro_f1": 0.25, "subset_accuracy": 0.1, "per_class": {}}
    result = StageResult({**PROBE, "kind": "multi-label", "test": figures, "baselines": {"chance": 0.1}}, "probe")
    assert repr(result).splitlines()[2].split()[2:] == ["75.0", "%", "50.0", "%", "25.0", "%"]
    assert "chance" in repr(result)


def test_evaluate_shows_the_worst_class_first():
    lines = repr(shown("evaluate")).splitlines()
    assert lines[0] == "90.0 % of 40 test samples right (95 %: 76.9–96.0 %); log-loss 0.250, ECE 0.012"
    assert lines[2].split()[-6:] == ["50.0", "%", "100.0", "%", "0.667", "20"]


def test_a_result_without_its_keys_shows_as_a_dict():
    result = shown("probe")
    del result["test"]
    assert repr(result) == dict.__repr__(result)
    assert result._repr_html_() is None
    assert repr(StageResult({"a": 1})) == "{'a': 1}"
    assert repr(StageResult({"stopped": "interrupted"}, "finetune")) == "{'stopped': 'interrupted'}"


def test_long_tables_and_cells_are_cut_and_steering_characters_written_out():
    rows = [{"name": "x" * 99, "share": 0.5, "low": 0.4, "high": 0.6}] * (ROWS + 3)
    face = Face("a\x1b[2Jb", rows, {"name": plain("name"), "share": share("share"), "interval": between()})
    lines = text(face, ["k"]).splitlines()
    assert lines[0] == "a\\x1b[2Jb"
    assert len(lines) == ROWS + 4
    assert lines[-2] == "… and 3 more rows; to_frame() has all of them"
    assert lines[2].split()[1:] == ["50.0", "%", "40.0–60.0"]
    assert len(lines[2]) < 100
    assert html(face, ["k"]).count("<tr>") == ROWS + 1


def test_a_presented_stage_keeps_its_name_and_signature():
    @presented
    def export(store: str) -> dict:
        """Write."""
        return {**RESULTS["export"], "store": store}

    assert (export.__name__, export.__doc__) == ("export", "Write.")
    assert repr(export("t")).startswith("3 × 8 embeddings of vit → x.npz\n")


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="needs pandas")
@pytest.mark.parametrize("verb", FACES)
def test_a_result_is_a_frame_of_plain_values(verb):
    frame = shown(verb).to_frame()
    assert len(frame) == len(shown(verb).face.rows)
    if verb == "compare":
        assert frame["top1"].tolist() == [0.9]


def test_without_pandas_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyMissing, match="needs pandas: pip install"):
        to_frame(Face("", [{"a": 1}]))
