"""Benchmarks: all contestants run under the same conditions, and what is said of featurepipe includes all of it."""

import importlib.util
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from PIL import Image

import featurepipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = "test_resnet"  # timm's own network for tests


def load(name, monkeypatch):
    """A benchmark's script as a module, with its neighbours importable as they are when it runs."""
    path = BENCHMARKS / name
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return folder


@pytest.fixture
def tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default; put back afterwards


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize("from_c", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_ceilings_compile_as_featurepipe_does(precision, from_c, monkeypatch, tf32):
    ceilings = load("contestants/ceilings.py", monkeypatch)
    seen = []

    def rate(*_):
        seen.append((inductor.freezing, inductor.cpp_wrapper, torch.backends.cudnn.allow_tf32))
        return 1.0

    monkeypatch.setattr(ceilings, "rate", rate)
    options = SimpleNamespace(device="cpu", precision=precision, backbone=SMALL, budget=0.01)
    threads = torch.get_num_threads()
    try:
        found = ceilings.forward_ceilings(options, {"input_size": (3, 32, 32)}, 2, from_c=from_c)
    finally:
        torch.set_num_threads(threads)
    ways = ["", " compiled", " compiled C++"][: 3 if from_c else 2]
    assert list(found) == [f"{size}{way}" for size in ("2x8", "1x32") for way in ways]
    assert seen == [(True, way.endswith("C++"), precision != "fp32") for _ in range(2) for way in ways]
    assert not inductor.freezing


@pytest.mark.parametrize(
    ("device", "calls"), [("cpu", ["decode", False, "kept", "decode", True]), ("cuda", ["decode", False])]
)
def test_the_ceiling_without_featurepipes_own_means_is_measured_before_memory_is_kept(
    device, calls, photos, monkeypatch
):
    ceilings = load("contestants/ceilings.py", monkeypatch)
    made, told = [], {}

    @contextmanager
    def reuse_memory():
        made.append("kept")
        yield

    def forwards(*_, from_c):
        made.append(from_c)
        return {"2x8": 100.0, "2x8 compiled": 400.0 if from_c else 200.0}

    monkeypatch.setattr(ceilings, "reuse_memory", reuse_memory)
    monkeypatch.setattr(ceilings, "decode_ceiling", lambda *_: made.append("decode") or 200.0)
    monkeypatch.setattr(ceilings, "forward_ceilings", forwards)
    monkeypatch.setattr(ceilings, "report", lambda *_, **more: told.update(more))
    monkeypatch.setattr(sys, "argv", ["ceilings.py", str(photos), "--backbone", SMALL, "--device", device])
    ceilings.main()
    assert made == calls
    assert told["serial"] == pytest.approx(1 / (1 / 200 + 1 / 400) if device == "cpu" else 200)
    assert told.get("plain_serial") == (100.0 if device == "cpu" else None)


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("auto", True)])
def test_the_dataloader_loop_is_warm_when_its_clock_starts(precision, allowed, photos, monkeypatch, tf32):
    contestant = load("contestants/dataloader.py", monkeypatch)
    read, clocks, told = [], [], {}

    class Images(contestant.Images):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(contestant, "Images", Images)
    clock = SimpleNamespace(perf_counter=lambda: clocks.append(len(read)) or float(len(clocks)))
    monkeypatch.setattr(contestant, "time", clock)
    monkeypatch.setattr(contestant, "report", lambda name, images, seconds, **more: told.update(images=images))
    choices = ["--backbone", SMALL, "--precision", precision, "--workers", "0", "--warm-up", "2"]
    monkeypatch.setattr(sys, "argv", ["dataloader.py", str(photos), *choices])
    contestant.main()
    assert clocks == [2, 7]  # two images before the clock starts, then all five
    assert told["images"] == 5
    assert torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.parametrize(("arguments", "warm"), [([], True), (["--cold"], False)])
def test_rivals_are_warmed_up_unless_whole_processes_are_timed(arguments, warm, photos, monkeypatch):
    rivals = load("rivals.py", monkeypatch)
    commands = {}

    def run(command, **_):
        commands[Path(command[1]).name] = command
        return SimpleNamespace(returncode=0, stdout=json.dumps({"images": 5}), stderr="")

    monkeypatch.setattr(rivals.subprocess, "run", run)
    options = rivals.parse([str(photos), *arguments])
    for name in ("featurepipe", "dataloader", "embetter", "thingsvision"):
        options.pythons.setdefault(name, sys.executable)
        rivals.run(name, photos, options, "fp32")
    assert {name for name, command in commands.items() if "--warm-up" in command} == (
        {"dataloader.py", "embetter_pipeline.py", "thingsvision_extractor.py"} if warm else set()
    )


def test_what_featurepipe_reports_is_end_to_end_and_says_which_package(photos, monkeypatch, capsys):
    contestant = load("contestants/featurepipe_cli.py", monkeypatch)
    said = {"computed": 5, "images_per_second": 2.5, "seconds": 4.0, "stages": {"check": 1.0}}
    real = subprocess.run

    def run(command, **options):
        if command[0] == "git":
            return real(command, **options)
        return SimpleNamespace(returncode=0, stdout=json.dumps(said).encode(), stderr=b"")

    monkeypatch.setattr(contestant.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["featurepipe_cli.py", str(photos), "--backbone", SMALL])
    contestant.main()
    line = json.loads(capsys.readouterr().out)
    assert (line["images"], line["seconds"], line["images_per_second"]) == (5, 2.0, 2.5)
    assert line["stages"] == {"check": 1.0}
    assert Path(line["package"]["folder"]) == Path(featurepipe.__file__).parent
    assert "commit" in line["package"]


def test_efficiency_is_taken_of_the_best_ceiling_and_the_plainer_one_stands_beside_it(monkeypatch):
    rivals = load("rivals.py", monkeypatch)
    top = {"decode": 900.0, "forward": 450.0, "serial": 300.0, "plain_serial": 250.0}
    top |= {"best_forward": "2x8 compiled C++", "precision": "bf16"}
    rounds = [{"ceilings": top, "featurepipe": {"images_per_second": speed}} for speed in (225.0, 240.0, 210.0)]
    lines = rivals.ceilings(rounds)
    assert lines[-2] == "efficiency: 0.750 (0.700-0.800)"
    assert (
        lines[-1] == "over the ceiling without kept memory and calls from C++, 250.0 (250.0-250.0): 0.900 (0.840-0.960)"
    )
    del top["plain_serial"]  # beside a GPU
    assert rivals.ceilings(rounds)[-1] == lines[-2]


def test_the_interval_over_redraws_counts_what_they_share(monkeypatch):
    precision = load("precision.py", monkeypatch)
    low, high = precision.interval(np.array([-1.0, 0.0, 1.0, 2.0]), train=75, test=25)
    reach = 3.182446 * np.sqrt((1 / 4 + 25 / 75) * 5 / 3)  # Student's t at 0.975 and three degrees of freedom
    assert (low, high) == pytest.approx((0.5 - reach, 0.5 + reach))
