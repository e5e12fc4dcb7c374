"""The command line: help, JSON, exit codes, errors, interruption."""

import csv
import errno
import glob
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from doubles import VECTOR_KINDS

import featurepipe
from featurepipe import cli, matrices, probes, stages, stores
from featurepipe.backbones.makers import BUNDLED_FILES
from featurepipe.probes.kinds import mlp

DIGITS = Path(featurepipe.__file__).parents[1] / "data" / "digits"
PROGRAM = [sys.executable, "-c", "from featurepipe.cli import main; main(prog_name='featurepipe')"]
TINY = ["-b", "test_resnet", "--random-weights", "--input-size", "3", "32", "32", "--device", "cpu"]
COMMANDS = sorted(cli.main.commands)
CROSS = "5-fold cross-validation on train"


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def result_of(*arguments):
    """The one JSON object of a command that succeeds."""
    called = call(*arguments, "--json")
    assert called.exit_code == 0, called.stderr
    assert len(called.stdout.splitlines()) == 1
    return json.loads(called.stdout)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a small part of data/digits in it."""
    if not (DIGITS / "train").is_dir():
        pytest.skip("needs the repository's data/digits")
    for split, count in (("train", 11), ("test", 5)):
        for folder in (DIGITS / split).iterdir():
            target = tmp_path / "data" / "digits" / split / folder.name
            target.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.processes
def test_python_m_featurepipe_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "featurepipe", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"featurepipe, version {featurepipe.__version__}\n")


def described(**card):
    """What `info` says of a model file."""
    spec = {"architecture": "resnet18", "layer": "penultimate"}
    backbone = {"name": "resnet18 tuned", "spec": spec, "fingerprint": "ab" * 32}
    return {"model": "m.safetensors", "kind": "logistic", "classes": ["a", "b"], "backbone": backbone, "card": card}


def test_info_says_whether_a_model_was_tuned_and_carries_its_backbone():
    tuning = {"promoted": True, "start": "probe", "tune": "stage4+", "tuned_parameters": 1200, "parameters": 34567}
    tuning |= {"best_epoch": 3, "curve": [{}] * 6}
    said = cli.texts.info_text({**described(finetuning=tuning), "carries_backbone": True}).splitlines()
    assert said[0] == "m.safetensors: logistic head, 2 classes, on resnet18 tuned (resnet18, penultimate, abababab)"
    assert said[1] == "  fine-tuned from the probe: stage4+, 1,200 of 34,567 parameters, epoch 3 of 5"
    assert said[2].endswith("featurepipe extract DATA -b m.safetensors")
    refused = cli.texts.info_text(
        {**described(finetuning={**tuning, "promoted": False}), "carries_backbone": False}
    ).splitlines()
    assert refused[0].startswith("m.safetensors: logistic probe, 2 classes")
    assert refused[1:] == ["  fine-tuning did not beat the probe on validation data; this is the probe"]
    assert len(cli.texts.info_text({**described(), "carries_backbone": False}).splitlines()) == 1


def test_info_of_a_store_without_a_manifest_says_what_to_do(tmp_path):
    store = stores.Store.create(tmp_path / "s")
    said = CliRunner().invoke(cli.main, ["info", str(store.path)]).output
    assert (
        said == f"{store.path}: no list of samples yet; extract is still at work, or was stopped: then run it again\n"
    )


def test_info_of_a_backbone_file_whose_card_is_anything_shows_what_it_can():
    told = {"backbone_file": "b.safetensors", "name": "b", "architecture": "resnet18", "licence": "MIT"}
    assert cli.texts.info_text({**told, "source": "the web"}).splitlines() == [
        "b.safetensors: backbone b, resnet18",
        "  the web",
        "  licence: MIT",
    ]
    for card in ("text", {"data": 3}, {"data": {"images": "many"}, "planned_epochs": 2}):
        assert "cannot be read" in cli.texts.info_text({**told, "pretraining": card})


# -- help ---------------------------------------------------------------------------------------------------------


def examples_of(command):
    return re.findall(r"^\s*\$ (featurepipe .*)$", command.help, re.MULTILINE)


@pytest.mark.processes
def test_help_loads_no_torch():
    code = (
        "import sys\nfrom featurepipe.cli import main\n"
        f"for arguments in [[], ['--help'], ['--version'], *([c, '--help'] for c in {COMMANDS})]:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as done: assert done.code == (2 if not arguments else 0), arguments\n"
        "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'numpy', 'h5py', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") + done.stderr.count("Usage:") == len(COMMANDS) + 2


def test_the_commands_are_the_designs():
    assert set(COMMANDS) >= {
        "run",
        "extract",
        "probe",
        "compare",
        "evaluate",
        "predict",
        "report",
        "info",
        "verify",
        "export",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_explained(command):
    one = cli.main.commands[command]
    assert examples_of(one), "a help page has examples that run"
    for parameter in one.params:
        assert parameter.param_type_name == "argument" or parameter.help, parameter.name
    text = call(command, "-h").output
    assert all(example in " ".join(text.split()) for example in examples_of(one))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["main", *COMMANDS])
def test_the_examples_in_the_help_run(command, here, monkeypatch):
    monkeypatch.setitem(
        probes.KINDS, "logistic", replace(probes.KINDS["logistic"], grid=(0.01, 0.1, 1.0))
    )  # to be quick
    if not BUNDLED_FILES["bundled"].is_file():
        pytest.skip("needs the bundled weights")
    one = cli.main if command == "main" else cli.main.commands[command]
    for example in examples_of(one):
        if any(word in example for word in ("resnet50", "open_clip", "photos", ".onnx")):  # extras
            continue
        words = [match for word in shlex.split(example)[1:] for match in sorted(glob.glob(word)) or [word]]
        done = call(*words)
        assert done.exit_code == 0, f"{example}\n{done.output}"
        assert done.stdout.strip()
        if "--json" in words:
            json.loads(done.stdout)


# -- results on stdout --------------------------------------------------------------------------------------------


def test_every_commands_json_has_the_keys_that_scripts_rely_on(here):
    keys = result_of("extract", "data/digits", "-s", "s", "-b", "pixels")
    assert {
        "store", "backbone", "fingerprint", "samples", "computed", "reused", "rejected", "seconds",
        "images_per_second", "device", "precision", "decoder", "efficiency", "limited_by", "ceiling", "stages",
        "profile",
    } <= set(keys)  # fmt: skip
    assert (keys["samples"], keys["computed"], keys["reused"]) == (160, 160, 0)
    keys = probed = result_of("probe", "s", "-o", "m.safetensors", "--kind", "ridge")
    assert {"model", "kind", "alpha", "splits", "val", "test", "baselines", "seconds"} <= set(keys)
    assert {"top1", "balanced_accuracy", "log_loss", "ece"} <= set(keys["test"])
    assert set(keys["baselines"]) == {"majority", "pixels", "random_backbone"}
    assert set(keys["splits"]) == {"train", "val", "test"}
    keys = result_of("compare", "s", "--kind", "ridge", "--kind", "logistic", "--baselines", "none")
    assert {"rows", "reference", "splits", "evaluated_on", "majority", "imagenet", "notes", "seconds"} <= set(keys)
    assert {"label", "layer", "kind", "top1", "interval", "p", "p_holm", "width", "bytes"} <= set(keys["rows"][0])
    again = result_of("evaluate", "m.safetensors", "data/digits")
    assert again["top1"] == probed["test"]["top1"]
    assert (
        result_of("predict", "m.safetensors", "data/digits/test/3", "-o", "p.csv", "--probabilities")["predicted"] == 5
    )
    header = Path("p.csv").read_text().splitlines()[0]
    assert header == "path,label,confidence," + ",".join(f"p:{digit}" for digit in range(10)) + ",file"
    keys = result_of("info", "s")
    assert {"rows", "width", "dtype", "shards", "bytes", "fingerprint"} <= set(keys["backbones"][0])
    assert result_of("info", "m.safetensors")["classes"] == list("0123456789")
    verified = result_of("verify", "s")
    assert (verified["ok"], verified["checked"], verified["problems"]) == (True, 160, [])
    assert result_of("export", "s", "-o", "x.npz")["rows"] == 160
    assert result_of("report", "m.safetensors")["report"] == "m.html"
    assert result_of("backbones", "vit_tiny*")["backbones"]
    keys = result_of("run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge")
    assert {"extract", "probe", "evaluate", "report", "samples", "model", "top1", "baselines"} <= set(keys)


@pytest.mark.slow
def test_talk_goes_to_stderr_and_starts_with_what_was_found_and_what_runs(here):
    for path in Path("data/digits").rglob("*.png"):
        os.utime(path, (10**9, 10**9))  # a file that has just been written is read again the next time
    for cached in (0, 160):
        done = call("extract", "data/digits", "-s", "s", *TINY, "--precision", "fp32")
        found, first = done.stderr.splitlines()[:2]
        held = "all in the store already" if cached else "none in the store yet"
        assert found.startswith("found 160 images of 10 classes: ")
        assert first == f"160 images · test_resnet (random weights, seed 0) on cpu · {held}"
        assert done.stdout.startswith(f"160 samples: {160 - cached} computed, {cached} reused, 0 rejected")
    assert done.stdout.splitlines()[1:] == ["store → s"]


@pytest.mark.slow
def test_a_profile_says_what_limited_and_how_near_to_the_ceiling(here):
    names = ("checking files", "reading", "inferring", "writing")
    spent, limit = "  " + ", ".join(rf"{name} \d+\.\d s" for name in names), f"  limited by ({'|'.join(names)}); "
    slow = ["--batch-size", "4", "-j", "1", "--profile"]
    long = call("extract", "data/digits", "-s", "s", *TINY, *slow).stdout.splitlines()
    assert re.fullmatch(spent, long[2])
    assert re.fullmatch(limit + r"\d+ % of this machine's ceiling of [\d.,]+ samples/s", long[3])
    short = call("extract", "data/digits", "-s", "t", *TINY, "--batch-size", "100", "--profile").stdout.splitlines()
    assert re.fullmatch(limit + "the run was too short to compare it with this machine's ceiling", short[3])


@pytest.mark.slow
def test_the_json_says_it_too(here, machine):
    machine(bf16=False)
    result = result_of("extract", "data/digits", "-s", "s", *TINY, "--batch-size", "4", "-j", "1")
    assert result["limited_by"] in ("checking files", "reading", "inferring", "writing")
    assert set(result["stages"]) == {"check", "read", "infer", "write"}
    assert result["efficiency"] == pytest.approx(result["images_per_second"] / result["ceiling"], abs=1e-2)
    assert sum(step["share"] for name, step in result["profile"].items() if name != "write") == pytest.approx(
        1, abs=0.01
    )
    assert (result["decoder"], result["precision"]) == ("torchvision", "fp32")


@pytest.mark.slow
def test_a_profile_is_a_table_of_steps_beside_the_result(here):
    plain = call("extract", "data/digits", "-s", "s", *TINY).stdout.splitlines()
    lines = call("extract", "data/digits", "-s", "t", *TINY, "--profile").stdout.splitlines()
    assert len(lines) == len(plain) + 10
    assert lines[-8].split() == ["step", "thread", "s", "ms/sample", "share"]
    assert [line.split()[0] for line in lines[-7:]] == ["check", "load", "decode", "compile", "infer", "wait", "write"]
    assert result_of("extract", "data/digits", "-s", "u", *TINY, "--profile")["profile"]["infer"]["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["torchvision", "pillow", "draft", "auto"])
def test_the_decoder_may_be_chosen_and_is_in_the_fingerprint(here, decoder):
    made = result_of("extract", "data/digits", "-s", "s", *TINY, "--decoder", decoder)
    assert made["decoder"] == decoder.replace("auto", "torchvision")
    default = result_of("extract", "data/digits", "-s", "t", *TINY)
    assert (made["fingerprint"] == default["fingerprint"]) is (decoder in ("torchvision", "auto"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_the_precision_may_be_chosen(here, precision, machine):
    machine(bf16=False)
    done = call("extract", "data/digits", "-s", "s", *TINY, "--precision", precision, "--json")
    wanted = precision.replace("auto", "fp32")
    assert json.loads(done.stdout)["precision"] == wanted
    assert ("on cpu in bf16 · " in done.stderr.splitlines()[1]) is (wanted == "bf16")


@pytest.mark.parametrize("command", ["run", "extract", "evaluate", "predict"])
def test_how_to_compile_reaches_the_extraction(here, monkeypatch, command):
    from featurepipe import extraction

    asked, real = [], extraction.fill
    model = result_of("run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge")["model"]
    arguments = {
        "extract": ["data/digits", "-s", "s", "-b", "pixels"],
        "run": ["data/digits", "-o", "q", "-b", "pixels", "--kind", "ridge"],
        "evaluate": [model, "data/digits"],
        "predict": [model, "data/digits", "-o", "p.csv"],
    }[command]
    monkeypatch.setattr(extraction, "fill", lambda *a, **k: (asked.append(a[3].compile), real(*a, **k))[1])
    for given in ([], ["--compile", "off"], ["--compile", "on"]):
        (here / "s").is_dir() and shutil.rmtree(here / "s")
        result_of(command, *arguments, *given)
    assert asked == ["auto", "off", "on"]


@pytest.mark.slow
def test_layers_are_extracted_listed_and_probed(here, machine):
    machine(bf16=False)
    called = call("extract", "data/digits", "-s", "s", *TINY, "--layers", "stage2,penultimate")
    assert called.stderr.splitlines()[1].startswith(
        "160 images · test_resnet (random weights, seed 0), 2 layers on cpu"
    )
    first, second = called.stdout.splitlines()[1:3]
    assert re.fullmatch(r"  stage2 +32 wide → test_resnet-random-weights-seed-0.stage2-[0-9a-f]{8}", first)
    assert re.fullmatch(r"  penultimate +96 wide → test_resnet-random-weights-seed-0-[0-9a-f]{8}", second)
    again = result_of("extract", "data/digits", "-s", "s", *TINY, "--layers", "stage2, penultimate")
    assert (again["computed"], again["reused"]) == (0, 160)
    assert [list(one) for one in again["layers"]] == [["layer", "width", "folder", "fingerprint"]] * 2
    listed = call("info", "s").stdout.splitlines()
    assert sum("stage2, 160 × 32 float32, 1 shard, 0.0" in line for line in listed) == 1
    assert "96 embeddings of test_resnet (random weights, seed 0) → x.npz" in call("export", "s", "-o", "x.npz").stdout
    said = call("export", "s", "-o", "x.npz", "--layer", "stage2").stdout
    assert said == "160 × 32 embeddings of test_resnet (random weights, seed 0) stage2 → x.npz\n"
    drifts = call("verify", "s", "--drift", "--images", "2", "--device", "cpu").stdout.splitlines()
    assert sum("(stage2, fp32, torchvision) from fp32 and Pillow" in line for line in drifts) == 1
    assert "probe on test_resnet (random weights, seed 0) stage2, alpha=" in call(
        "probe", "s", "--layer", "stage2", "--kind", "ridge", "--baselines", "none"
    ).stdout  # fmt: skip


@pytest.mark.slow
def test_the_table_of_layers_says_what_the_json_says(here):
    call("extract", "data/digits", "-s", "s", *TINY, "--layers", "stage2,stage3,penultimate")
    arguments = ["probe", "s", "--layers", "all", "--kind", "ridge", "--baselines", "none"]
    rows, lines = result_of(*arguments)["layers"], call(*arguments).stdout.splitlines()
    assert lines[0].split() == ["layer", "width", "selection", "test", "top-1", "95", "%", "interval"]
    for row, line in zip(rows, lines[1:4], strict=True):
        selection, top1, low, high = (
            f"{100 * figure:.1f}" for figure in (row["selection"]["top1"], row["top1"], *row["interval"])
        )
        wanted = [row["layer"], str(row["width"]), selection, "%", top1, "%", low, "–", high]
        assert line.split() == [*wanted, *(["←", "chosen"] if row["chosen"] else [])]
    assert lines[4].startswith("ridge probe on test_resnet (random weights, seed 0)")
    some = result_of(*arguments[:3], "stage3,stage2", *arguments[4:])["layers"]
    assert [row["layer"] for row in some] == ["stage2", "stage3"]


@pytest.mark.slow
def test_the_bundled_backbone_is_named_as_such(here, machine):
    machine(bf16=False)
    if not BUNDLED_FILES["bundled"].is_file():
        pytest.skip("needs the bundled weights")
    assert "demo network (bundled) on cpu · none in the store yet. For real work: -b resnet50" in call(
        "extract", "data/digits"
    ).stderr  # fmt: skip
    call("probe", "digits.store", "-o", "model.safetensors", "--kind", "ridge", "--baselines", "none")
    assert "· demo network (bundled) on cpu\n" in call("evaluate", "model.safetensors", "data/digits").stderr  # no -b


def test_texts_say_what_the_json_says(here):
    values = result_of(
        "run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge", "--shots", "2", "--repeats", "2"
    )
    text = call(
        "run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge", "--shots", "2", "--repeats", "2"
    ).stdout
    for expected in (
        f"{100 * values['test']['top1']:.1f} %",
        f'  baselines      always answering "{values["majority_class"]}" (most common in train): 10.0 %',
        f"alpha={values['alpha']:g}",
        "with few labels: test top-1 in %, mean of 2 draws ± its 95 % interval",
        values["model"],
        values["report"],
    ):
        assert expected in text
    (few,) = values["few_shot"]
    half = max(few["mean"] - few["interval"][0], few["interval"][1] - few["mean"])
    table = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    for cells in (
        ["labels per class", "2", "all"],
        ["labels in all", "20", "110"],
        ["ridge probe", f"{100 * few['mean']:.1f} ± {100 * half:.1f}", f"{100 * values['test']['top1']:.1f}"],
    ):
        assert cells in table
    text = call("evaluate", values["model"], "data/digits", "--split", "all").stdout
    assert "with 110 samples seen in training: " in text
    assert "lowest recall" in text
    text = call("predict", values["model"], "data/digits/test/3", "-o", "p.csv").stdout
    assert text.startswith("5 predictions (")
    assert "10 classes" in call("info", values["model"]).stdout
    assert "160 samples of 10 classes" in call("info", "r/store").stdout
    assert call("verify", "r/store").stdout == "160 rows verified\n"


def test_sets_of_labels_and_tasks_say_what_their_json_says(here, monkeypatch):
    monkeypatch.setitem(probes.KINDS, "logistic", replace(probes.KINDS["logistic"], grid=(0.01, 0.1)))  # to be quick
    result_of("extract", "data/digits", "-s", "s", "-b", "pixels")
    call("export", "s", "-o", "all.csv")
    rows = [line.split(",")[:2] for line in Path("all.csv").read_text().splitlines()[1:]]
    sets = {digit: ";".join(["even"] * (digit % 2 == 0) + ["big"] * (digit > 4)) or ";" for digit in range(10)}
    lines = [f"{id_},{'odd' if int(digit) % 2 else 'even'},{sets[int(digit)]}" for id_, digit in rows]
    Path("t.csv").write_text("\n".join(["id,parity,tags", *lines]))
    arguments = ["probe", "s", "-o", "m.safetensors", "--labels", "t.csv", "--task"]
    values = result_of(*arguments, "tags", "--multi-label")["tasks"]["tags"]
    text = call(*arguments, "tags", "--multi-label").stdout
    figures = values["test"]
    lowest = min(figures["per_class"], key=lambda label: figures["per_class"][label]["average_precision"])
    for expected in (
        "tags: multi-label probe on pixels, C=",
        f"{values['C']['big']:g} of big, {values['C']['even']:g} of even (chosen on: {CROSS})",
        f"test mAP       {100 * figures['map']:.1f} %   (n=50, micro F1 {figures['micro_f1']:.3f}",
        f"right sets {100 * figures['subset_accuracy']:.1f} %",
        f"lowest AP      {lowest} ",
        f"chance: {100 * values['baselines']['chance']:.1f} %",
        "model → m-tags.safetensors",
    ):
        assert expected in text
    both = call(*arguments, "parity,tags", "--baselines", "none").stdout  # sets as classes
    assert [line.split(":")[0] for line in both.splitlines() if " probe on " in line] == ["parity", "tags"]
    result_of(*arguments, "tags", "--multi-label")
    assert "2 classes" in call("info", "m-tags.safetensors").stdout
    said = call("predict", "m-tags.safetensors", "data/digits/test/8", "-o", "p.csv").stdout
    assert said.startswith("5 predictions (")
    assert Path("p.csv").read_text().splitlines()[0] == "path,label,p:big,p:even,file"
    Path("sets.csv").write_text(f"path,label\n{min(Path('data/digits/test/8').iterdir())},big\n")
    assert "lowest AP      big 100.0 %" in call("evaluate", "m-tags.safetensors", "sets.csv", "--split", "all").stdout


@pytest.mark.slow
def test_a_comparison_says_what_its_json_says(here):
    result_of("extract", "data/digits", "-s", "s", "-b", "color-histogram")
    (here / "i.csv").write_text("model,top1\nresnet50,80\n")
    arguments = ["compare", "s", "--kind", "ridge", "--kind", "logistic", "--seed", "2", "--imagenet", "i.csv"]
    values = result_of(*arguments, "-o", "c.csv")
    done = call(*arguments, "-o", "c.html")
    lines = done.stdout.splitlines()
    assert lines[0] == "4 rows on the same 50 test samples of 10 classes; 95 % intervals"
    assert lines[1] == "  110 train, 50 test; splits given"
    assert lines[2] == f'  always answering "{values["majority_class"]}" (most common in train): 10.0 %'
    head = ["selection", "top-1", "interval", "diff.", "p (Holm)", "backbone, layer, probe"]
    assert re.split(r"\s{2,}", lines[3].strip()) == head
    for line, row in zip(lines[4:8], values["rows"], strict=True):
        expected = [f"{100 * row['selection_top1']:.1f}", f"{100 * row['top1']:.1f}"]
        assert [word for word in line.split() if word not in "*%"][:2] == expected
        assert line.startswith("  * ") is (
            {"label": row["label"], "kind": row["kind"], "given": False} == values["reference"]
        )
        assert line.endswith(f"  {row['label']}, {row['kind']}")
        assert len(line) <= 80
    reference = values["reference"]
    assert lines[8].startswith(f"* The reference ({reference['label']}, {reference['kind']}) was chosen on selection")
    assert lines[-3:] == [
        "rank correlation with ImageNet top-1 (ridge, 0 known): needs at least three backbones that differ",
        "rank correlation with ImageNet top-1 (logistic, 0 known): needs at least three backbones that differ",
        "comparison → c.html",
    ]
    assert len({line.index(row["label"] + ",") for line, row in zip(lines[4:8], values["rows"], strict=True)}) == 1
    assert "-o FILE.html or FILE.csv" in call(*arguments).stdout.splitlines()[-1]
    assert "ridge probe on pixels" in done.stderr
    assert Path("c.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert len(Path("c.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_the_first_of_equal_kinds_counts_and_logistic_is_the_default(here):
    result_of("extract", "data/digits", "-s", "s", "-b", "color-histogram")
    twice = result_of("compare", "s", "--kind", "ridge", "--kind", "ridge", "--reference", "pixels")
    assert {(row["label"], row["kind"]) for row in twice["rows"]} == {("pixels", "ridge"), ("color-histogram", "ridge")}
    assert twice["reference"] == {"label": "pixels", "kind": "ridge", "given": True}
    assert {row["kind"] for row in result_of("compare", "s")["rows"]} == {"logistic"}


@pytest.mark.slow
def test_options_reach_the_backbone_and_the_probe(here):
    options = ["--mean", "0.1", "0.2", "0.3", "--crop-pct", "0.5", "--interpolation", "nearest", "--pooling", "max"]
    result_of("extract", "data/digits", "-s", "s", *TINY, *options, "--seed", "5", "--backbone-arg", "act_layer=gelu")
    result_of("probe", "s", "-o", "m.safetensors", "--C", "0.25", "--baselines", "none", "--seed", "6")
    model = result_of("info", "m.safetensors")
    spec = model["backbone"]["spec"]
    assert spec["transform"]["mean"] == [0.1, 0.2, 0.3]
    assert (spec["transform"]["crop_pct"], spec["transform"]["interpolation"]) == (0.5, "nearest")
    assert spec["pooling"] == "max"
    assert spec["arguments"] == {"act_layer": "gelu"}
    assert model["backbone"]["source"]["random_seed"] == 5
    assert (model["card"]["selection"]["chosen"], model["card"]["seed"]) == (0.25, 6)


def test_protocols_say_what_was_chosen_and_how_they_differ(here):
    assert call("extract", "data/digits", "-s", "s", "-b", "pixels").exit_code == 0
    text = call("probe", "s", "--protocol", "kornblith", "--metric", "balanced_accuracy", "-o", "m.safetensors").stdout
    assert text.startswith("protocol kornblith, version 1, on pixels: C=")
    assert "(chosen by balanced_accuracy on: 20 of 110 training rows held out)" in text
    assert "test top-1 " in text
    assert "differs from the published recipe:\n    - run to the optimum" in text
    assert text.endswith("model → m.safetensors\n")
    text = call("probe", "s", "--protocol", "dinov2-knn").stdout
    assert re.search(r"on pixels: k=\d+ \(chosen by top1 on: leave-one-out on train\)", text)
    assert re.findall(r"test top-1 .*k=(\d+)\)", text) == ["10", "20", "100"]
    assert text.endswith("no model file: this protocol gives no linear classifier of raw embeddings\n")
    text = call("run", "data/digits", "-b", "pixels", "--protocol", "bigvision-fewshot").stdout
    pattern = r"(\d+) per class +top1 [\d.]+ % ± [\d.]+, 95 % of the mean [\d.]+ – [\d.]+, on test"
    assert re.findall(pattern, text) == ["1", "5", "10"]
    assert "report →" not in text


@pytest.mark.slow
def test_the_table_of_few_labels_says_what_the_json_says(here):
    assert call("extract", "data/digits", "-s", "s", *TINY).exit_code == 0
    options = (
        "probe",
        "s",
        "-b",
        "test_resnet (random weights, seed 0)",
        "--kind",
        "ridge",
        "--shots",
        "1,4",
        "--repeats",
        "3",
        "--semi",
    )
    values, lines = result_of(*options), call(*options).stdout.splitlines()
    start = lines.index("with few labels: test top-1 in %, mean of 3 draws ± its 95 % interval")
    table = [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 : start + 7]]
    few = values["few_shot"]
    assert table[:2] == [
        ["labels per class", "1", "4", "all"],
        ["labels in all", *(str(one["labels"]) for one in few), str(values["splits"]["train"])],
    ]
    methods = {"ridge probe": few, "self-training": [one["semi"]["self_training"] for one in few]}
    methods["label spreading"] = [one["semi"]["label_spreading"] for one in few]
    for cells, (name, figures) in zip(table[2:5], methods.items(), strict=True):
        halves = [max(one["mean"] - one["interval"][0], one["interval"][1] - one["mean"]) for one in figures]
        spans = [f"{100 * one['mean']:.1f} ± {100 * half:.1f}" for one, half in zip(figures, halves, strict=True)]
        whole = [f"{100 * values['test']['top1']:.1f}"] if name == "ridge probe" else []
        assert cells == [name, *spans, *whole]
    pixels = [*(one["baselines"]["pixels"] for one in few), values["baselines"]["pixels"]]
    assert table[5] == ["raw pixels", *(f"{100 * top1:.1f}" for top1 in pixels)]
    assert max(map(len, lines[start : start + 7])) <= 80
    alone = call(*options[:-3], "--repeats", "1", "--baselines", "none").stdout
    assert "with few labels: test top-1 in %, mean of 1 draw\n" in alone
    assert "±" not in alone


def test_predict_prints_its_answers_where_they_are_to_go_nowhere(here):
    model = result_of("run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge")["model"]
    files = sorted(map(str, Path("data/digits/test/3").iterdir()))
    one = call("predict", model, files[0]).stdout
    assert re.fullmatch(rf"\d +[\d.]+ %  {re.escape(files[0])}\n", one)
    values = result_of("predict", model, *files)["predictions"]
    lines = call("predict", model, *files).stdout.splitlines()
    assert lines[0].split() == ["label", "confidence", "file"]
    for line, row in zip(lines[1:6], values, strict=True):
        assert line.split() == [row["label"], f"{100 * row['confidence']:.1f}", "%", row["file"]]
    assert len({line.index("data/digits") for line in lines[1:6]}) == 1  # aligned
    assert lines[6].startswith("5 predictions (")
    everything = call("predict", model, "data/digits/test").stdout.splitlines()
    assert everything[0].split() == ["label", "confidence", "true", "label", "file"]
    assert everything[21] == "… and 30 more; -o FILE.csv writes them all"
    found = result_of("predict", model, "data/digits/test")
    assert everything[23] == f"  right on {found['right']} of 50 samples with a true label, {2 * found['right']:.1f} %"
    assert "note: the model was trained on 110 of these samples" in call("predict", model, "data/digits").stdout


def test_predictions_go_to_stdout_and_the_talk_beside_them(here):
    model = result_of("run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge")["model"]
    done = call("predict", model, "data/digits/test", "-o", "-")
    call("predict", model, "data/digits/test", "-o", "p.csv")
    assert done.stdout == Path("p.csv").read_text()
    assert "50 predictions (" in done.stderr
    both = call("predict", model, "data/digits/test", "-o", "-", "--json")
    assert (both.exit_code, json.loads(both.stdout)["error"]) == (
        2,
        "-o - and --json both write to stdout; drop one of them",
    )


# -- exit codes ---------------------------------------------------------------------------------------------------


def failing():
    return {
        "no data": ["extract", "nowhere", "-b", "pixels"],
        "no images": ["extract", "empty", "-b", "pixels"],
        "unknown name": ["extract", "data/digits", "-b", "resnet5O"],
        "unknown tag": ["extract", "data/digits", "-b", "resnet50.nobody"],
        "no weights": ["extract", "data/digits", "-b", "test_resnet", "--weights", "gone.safetensors"],
        "no model to extract with": ["extract", "data/digits", "-b", "gone.safetensors"],
        "a text for a backbone": ["run", "data/digits", "-b", "text.safetensors"],
        "no model to probe": ["probe", "s", "-b", "gone.safetensors"],
        "no layer": ["extract", "data/digits", *TINY, "--layer", "stage9"],
        "no argument": ["extract", "data/digits", *TINY, "--backbone-arg", "wings=2"],
        "no device": ["extract", "data/digits", *TINY, "--device", "abacus"],
        "no device for a probe": ["probe", "s", "--probe-device", "abacus"],
        "no device for a probe of a run": ["run", "data/digits", "-b", "pixels", "--probe-device", "mps"],
        "no store": ["probe", "nowhere"],
        "no store to see": ["info", "nowhere"],
        "no store to check": ["verify", "empty"],
        "not a store": ["extract", "data/digits", "-s", "data", "-b", "pixels"],
        "no model": ["evaluate", "nowhere.safetensors", "data/digits"],
        "no model either": ["report", "nowhere.safetensors"],
        "a text for a model": ["predict", "text.safetensors", "data/digits", "-o", "p.csv"],
        "predictions as xlsx": ["predict", "text.safetensors", "data/digits", "-o", "p.xlsx"],
        "export as xlsx": ["export", "s", "-o", "x.xlsx"],
        "output below a file": ["export", "s", "-o", "text.safetensors/x.npz"],
        "no such backbone": ["probe", "s", "-b", "nobody"],
        "too many shots": ["probe", "s", "--kind", "ridge", "--baselines", "none", "--shots", "12"],
        "C that is no number": ["probe", "s", "--C", "nan"],
        "no such metric": ["probe", "s", "--protocol", "lpft", "--metric", "map"],
        "no model file": ["probe", "s", "--protocol", "dinov2-knn", "-o", "m.safetensors"],
        "no store to compare": ["compare", "s", "nowhere"],
        "one row": ["compare", "s", "--baselines", "none"],
        "no such reference": ["compare", "s", "--reference", "nobody"],
        "comparison as xlsx": ["compare", "s", "-o", "c.xlsx"],
        "no table of ImageNet": ["compare", "s", "--imagenet", "nowhere.csv"],
        "no codebook": ["extract", "data/digits", "-b", "sift"],
        "weights for pixels": ["extract", "data/digits", "-b", "pixels", "--weights", "text.safetensors"],
    }


@pytest.fixture
def broken(here):
    (here / "empty").mkdir()
    (here / "text.safetensors").write_text("hello")
    assert call("extract", "data/digits", "-s", "s", "-b", "pixels").exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", failing())
def test_what_fails_says_why_in_one_line_and_exits_1(broken, what):
    plain = call(*failing()[what])
    assert (plain.exit_code, plain.stdout) == (1, "")
    assert plain.stderr.splitlines()[-1].startswith("featurepipe: ")
    assert "Traceback" not in plain.stderr
    assert plain.stderr.count("featurepipe: ") == 1
    as_json = call(*failing()[what], "--json")
    assert as_json.exit_code == 1
    assert f"featurepipe: {json.loads(as_json.stdout)['error']}" == plain.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["probe"],
        ["probe", "s", "--wings"],
        ["probe", "s", "--kind", "forest"],
        ["probe", "s", "--kind", "ridge", "--C", "1"],
        ["probe", "s", "--alpha", "1"],
        ["probe", "s", "--kind", "centroid", "--C", "1"],
        ["probe", "s", "--kind", "lda", "--shrinkage", "1.5"],
        ["probe", "s", "--kind", "knn", "-k", "0"],
        ["probe", "s", "--class-weight", "heavy"],
        ["probe", "s", "--C", "0"],
        ["probe", "s", "--shots", "abc"],
        ["probe", "s", "--shots", "5,,10"],
        ["probe", "s", "--shots", "0"],
        ["probe", "s", "--repeats", "0"],
        ["probe", "s", "--semi"],
        ["probe", "s", "--protocol", "clip", "--semi"],
        ["probe", "s", "--baselines", "all"],
        ["compare"],
        ["compare", "s", "--kind", "oracle"],
        ["compare", "s", "--baselines", "all"],
        ["probe", "s", "--seed", "-1"],
        ["probe", "s", "--protocol", "clap"],
        ["probe", "s", "--protocol", "clip", "--kind", "logistic"],
        ["probe", "s", "--protocol", "clip", "--C", "1"],
        ["probe", "s", "--protocol", "clip", "--shots", "1"],
        ["probe", "s", "--metric", "top1"],
        ["probe", "s", "--kind", "ridge", "--probe-device", "cuda"],
        ["run", "d", "--kind", "knn", "--probe-device", "cpu:0"],
        ["probe", "s", "--protocol", "clip", "--probe-device", "cuda"],
        ["probe", "s", "--protocol", "clip", "--multi-label"],
        ["probe", "s", "--labels", "t.csv"],
        ["probe", "s", "--task", "colour"],
        ["probe", "s", "--labels", "t.csv", "--task", "colour", "--layers", "all"],
        ["probe", "s", "--labels", "t.csv", "--task", "colour", "--protocol", "clip"],
        ["run", "d", "--labels", "t.csv", "--task", "colour"],
        ["run", "d", "--protocol", "clip", "--alpha", "1"],
        ["extract", "d", "--mean", "0.5"],
        ["extract", "d", "--precision", "int8"],
        ["extract", "d", "--decoder", "gd"],
        ["extract", "d", "--compile", "maybe"],
        ["evaluate", "m", "d", "--profile"],
        ["extract", "d", "--batch-size", "0"],
        ["extract", "d", "--backbone-arg", "novalue"],
        ["extract", "d", "--crop-pct", "0"],
        ["extract", "d", "--layer", "penultimate", "--layers", "stages"],
        ["probe", "s", "--layer", "stage1", "--layers", "all"],
        ["run", "d", "--layers", "stages"],
        ["evaluate", "m", "d", "--split", "holdout"],
        ["predict", "m"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_and_says_so(arguments):
    plain, as_json = call(*arguments), call(*arguments, "--json")
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert "Error: " in plain.stderr
    assert "Traceback" not in plain.stderr
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["error"] in " ".join(as_json.stderr.split())


@pytest.mark.parametrize("command", ["extract", "run", "evaluate", "predict"])
def test_rejected_images_fail_only_with_strict(here, command):
    model = result_of("run", "data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge")["model"]
    arguments = {
        "extract": ["data/digits", "-s", "s", "-b", "pixels"],
        "run": ["data/digits", "-o", "r", "-b", "pixels", "--kind", "ridge"],
        "evaluate": [model, "data/digits"],
        "predict": [model, "data/digits", "-o", "p.csv"],
    }[command]
    assert call(command, *arguments, "--strict").exit_code == 0
    (here / "data/digits/test/3/bad.png").write_bytes(b"")
    assert result_of(command, *arguments)["rejects"] == {"test/3/bad.png": "empty file (0 bytes)"}
    strict = call(command, *arguments, "--strict", "--json")
    assert (strict.exit_code, json.loads(strict.stdout)["rejected"]) == (3, 1)
    assert "rejected test/3/bad.png: empty file" in call(command, *arguments).stdout
    (here / "data/digits/test/3/bad.png").rename(here / "data/digits/test/3/bad.psd")  # left out, but a picture
    assert call(command, *arguments, "--strict").exit_code == 3
    left_out = call(command, *arguments)
    assert left_out.exit_code == 0
    assert "note: left out: 1 .psd file" in left_out.stderr
    (here / "data/digits/test/3/bad.psd").rename(here / "data/digits/test/3/bad.txt")
    assert call(command, *arguments, "--strict").exit_code == 0
    (here / "data/digits/test/3/up").symlink_to("..")  # a class may be behind a link
    left_out = call(command, *arguments, "--strict")
    assert left_out.exit_code == 3
    assert "1 link that leads back or where one did (test/3/up)" in left_out.stderr
    assert "0 samples rejected, 0 pictures and 1 link left out; --strict allows none" in left_out.stderr


def test_many_rejects_are_counted_not_listed(here):
    for number in range(8):
        (here / f"data/digits/test/3/bad{number}.png").write_bytes(b"")
    text = call("extract", "data/digits", "-b", "pixels").stdout
    assert text.count("rejected test") == 5
    assert "… and 3 more" in text


def test_a_damaged_store_exits_1_and_repair_mends_it(here):
    result_of("extract", "data/digits", "-s", "s", "-b", "pixels")
    (shard,) = (here / "s").rglob("*.h5")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = call("verify", "s", "--json")
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (1, False)
    assert call("probe", "s", "--kind", "ridge").exit_code == 1
    assert call("verify", "s", "--repair").exit_code == 1
    assert call("verify", "s").exit_code == 0
    assert result_of("extract", "data/digits", "-s", "s", "-b", "pixels")["computed"] == 160


@pytest.mark.slow
def test_an_edited_manifest_exits_1_in_one_line_until_it_is_accepted(here):
    result_of("extract", "data/digits", "-s", "s", "-b", "pixels")
    manifest = here / "s" / "manifest.csv"
    manifest.write_bytes(manifest.read_bytes().replace(b",0,train,", b",zero,train,", 1))
    for command in (["info", "s"], ["probe", "s"], ["export", "s", "-o", "x.npz"]):
        done = call(*command)
        assert done.exit_code == 1
        assert "manifest.csv was edited or damaged" in done.stderr.splitlines()[-1]
        assert "featurepipe verify s --accept-edits" in done.stderr.splitlines()[-1]
    assert call("verify", "s").exit_code == 1
    done = call("verify", "s", "--accept-edits")
    assert (done.exit_code, done.stdout) == (
        0,
        "160 samples accepted as edited; which rows are not as before cannot be told\n160 rows verified\n",
    )
    assert result_of("info", "s")["classes"] == 11


def test_an_interrupt_exits_130_and_says_how_to_resume(here, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "extract", interrupted)
    done = call("extract", "data/digits", "--json")
    assert done.exit_code == 130
    assert "interrupted" in json.loads(done.stdout)["error"]
    assert "run the same command again to go on from there" in done.stderr


@pytest.mark.processes
def test_ctrl_c_in_the_middle_of_extract_keeps_what_is_finished(here):
    arguments = ["extract", str(DIGITS / "test"), "-s", "s", *TINY, "--json"]
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    program = [*PROGRAM[:2], f"{heard}; {PROGRAM[2]}"]
    slow = [*program, *arguments, "--batch-size", "1", "--rows-per-shard", "4"]
    process = subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not glob.glob("s/*/shard-00002.h5") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr.partition("Exception ignored")[0]  # in a callback of h5py's Python prints that
    assert stderr.splitlines()[-1] == f"featurepipe: {cli.RESUME}"
    assert json.loads(stdout) == {"error": cli.RESUME}
    assert not glob.glob("s/**/*.partial", recursive=True)
    kept = result_of("verify", "s")["checked"]
    assert 12 <= kept < 600
    resumed = result_of(*arguments[:-1])
    assert (resumed["reused"], resumed["computed"]) == (kept, 600 - kept)


# -- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_on_a_terminal_only(monkeypatch, terminal):
    import tqdm

    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    bar, stream = tqdm.tqdm, Stream()
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: bar(**{**options, "delay": 0, "mininterval": 0}))
    monkeypatch.setattr(sys, "stderr", stream)
    with cli.Talk().progress("embedding", 2) as advance:
        advance(1)
        advance(1)
    assert ("embedding" in stream.getvalue()) is terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_a_note_stands_on_a_line_of_its_own_and_the_bar_goes_on_below(monkeypatch, terminal):
    import tqdm

    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    bar, stream, talk = tqdm.tqdm, Stream(), cli.Talk()
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: bar(**{**options, "delay": 0, "mininterval": 0, "ncols": 60}))
    monkeypatch.setattr(sys, "stderr", stream)
    with talk.progress("embedding", 3) as advance:
        talk.note("before any image")
        advance(1)
        talk.note("compiled")
        noted = stream.getvalue()
        advance(1)
        shown = stream.getvalue()
    talk.note("done")
    lines = [line.rsplit("\r", 1)[-1] for line in shown.split("\n")]  # what is left on the screen
    if terminal:
        assert lines[-2] == "compiled"
        assert ("1/3" in noted.split("\n")[-1], "2/3" in lines[-1]) == (True, True)
        assert stream.getvalue().endswith("\ndone\n")
    else:
        assert stream.getvalue() == "before any image\ncompiled\ndone\n"


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_the_terminal_cannot_show_do_not_fail(here):
    odd = here / "data/digits/test/3" / b"caf\xe9.png".decode("utf-8", "surrogateescape")
    try:
        odd.write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    done = subprocess.run(
        [*PROGRAM, "extract", "data/digits", "-s", "s", "-b", "pixels"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},  # has no →
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"rejected test/3/caf" in done.stdout


@pytest.mark.parametrize("command", ["extract", "run"])
def test_rehash_reaches_the_stage(monkeypatch, command):
    class Called(Exception):
        pass

    def stage(*_, rehash, **__):
        raise Called(rehash)

    monkeypatch.setattr(stages, command, stage)
    assert call(command, "data").exception.args == (False,)
    assert call(command, "data", "--rehash").exception.args == (True,)


# -- model files of every kind ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(VECTOR_KINDS))
def test_a_model_file_of_every_kind_predicts_and_evaluates_as_its_estimator(photos, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(mlp, "EPOCHS", 5)
    monkeypatch.setattr(mlp, "HIDDEN", 8)
    data, store, model = photos(("ant", "bee", "cat"), 8, ("train", "test")), tmp_path / "s", tmp_path / "m.safetensors"
    call("extract", data, "-s", store, "-b", "color-histogram")
    probed = result_of("probe", store, "-o", model, "--kind", kind, "--baselines", "none")
    opened = stores.Store.open(store)
    matrix = matrices.load(opened, opened.choose("color-histogram"))
    train, test = (matrix.take(matrix.split == split) for split in ("train", "test"))
    fitted = probes.fit(kind, train.X, train.y)
    predicted = result_of("predict", model, data, "-o", tmp_path / "p.csv", "--probabilities")
    assert predicted["predicted"] == len(matrix)
    with open(tmp_path / "p.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    rows = [rows[id_] for id_ in matrix.ids]
    assert [row["label"] for row in rows] == fitted.estimator.predict(matrix.X.astype(float)).tolist()
    proba = np.array([[float(row[f"p:{label}"]) for label in fitted.classes] for row in rows])
    np.testing.assert_allclose(proba, fitted.predict_proba(matrix.X), atol=1e-5)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], proba.max(axis=1))
    for where in (store, data):
        evaluated = result_of("evaluate", model, where)
        assert evaluated["top1"] == probed["test"]["top1"] == np.mean(fitted.estimator.predict(test.X) == test.y)
        assert evaluated["log_loss"] == pytest.approx(probed["test"]["log_loss"], rel=1e-6)


def test_a_place_without_rights_is_named_with_what_to_do(monkeypatch):
    def info(path):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setattr(stages, "info", info)
    done = call("info", "s")
    assert done.exit_code == 1
    said = "featurepipe: /somewhere: Permission denied; give another place, or get the rights to use this one\n"
    assert done.stderr == said
