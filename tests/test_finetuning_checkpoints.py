"""Checkpoints: whole or not at all, of one run, and nothing is learned from a damaged one."""

import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from featurepipe.errors import FinetuningError, OutputError
from featurepipe.finetuning import checkpoints

TENSORS = {
    "state": {
        "a": torch.arange(3.0),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "num_batches_tracked": torch.ones(1),
    },
    "optimizer": {"param_groups": [{"lr": 0.1, "params": [0]}], "state": {}},
}
PROGRESS = {"epoch": 2, "step": 5, "curve": [{"epoch": 0, "train_loss": None, "top1": 0.5}]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "deep" / "checkpoint.pt"
    checkpoints.save(path, "this run", PROGRESS, TENSORS)
    return path


def test_what_is_saved_is_loaded(saved):
    progress, tensors = checkpoints.load(saved, "this run")
    assert progress == PROGRESS
    assert torch.equal(tensors["state"]["a"], TENSORS["state"]["a"])
    assert tensors["optimizer"] == TENSORS["optimizer"]


def test_another_run_is_told_of_or_refused_and_none_is_nothing_to_say(saved, tmp_path):
    notes = []
    assert checkpoints.load(tmp_path / "none.pt", "this run", notes.append, strict=True) is None
    assert notes == []
    assert checkpoints.load(saved, "another run", notes.append) is None
    assert "belongs to a run with other data, options or precision" in notes[0]
    with pytest.raises(FinetuningError, match="give the options of that run, or remove the file"):
        checkpoints.load(saved, "another run", notes.append, strict=True)
    assert (len(notes), saved.is_file()) == (1, True)


def test_every_changed_bit_and_every_zeroed_block_is_noticed(saved):
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(data), 300, replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        saved.write_bytes(changed)
        assert checkpoints.load(saved, "this run") is None, place
    blocks = [place for place in range(0, len(data) - 64, 64) if any(data[place : place + 64])]
    for place in blocks:
        saved.write_bytes(data[:place] + bytes(64) + data[place + 64 :])
        assert checkpoints.load(saved, "this run") is None, place
    saved.write_bytes(data)
    assert checkpoints.load(saved, "this run")[0] == PROGRESS


@pytest.mark.parametrize("broken", ["empty", "cut", "longer", "noise"])
def test_a_damaged_one_is_set_aside_with_one_line(saved, broken):
    data, notes = saved.read_bytes(), []
    damaged = {"empty": b"", "cut": data[: len(data) // 2], "longer": data + b"\0", "noise": b"noise\n" * 99}[broken]
    saved.write_bytes(damaged)
    assert checkpoints.load(saved, "this run", notes.append) is None
    assert notes == [
        f"note: {saved} is damaged and was renamed to checkpoint.pt.damaged; tuning starts again",
    ]
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt.damaged"]
    assert (saved.parent / "checkpoint.pt.damaged").read_bytes() == damaged


def write(path, content):
    """A file whose digest is right."""
    file = io.BytesIO()
    torch.save(content, file)
    path.write_bytes(checkpoints.START + checkpoints._line(hashlib.sha256(file.getvalue())) + file.getvalue())


def test_one_of_version_1_is_gone_on_from_if_its_checksums_are_right(saved):
    notes = []
    header = json.dumps({"format": 1, "identity": "this run", "progress": PROGRESS})
    torch.save({"header": header, "tensors": TENSORS}, saved)
    progress, tensors = checkpoints.load(saved, "this run", notes.append)
    assert (progress, notes) == (PROGRESS, [])
    assert torch.equal(tensors["state"]["a"], TENSORS["state"]["a"])
    data = bytearray(saved.read_bytes())
    data[data.index(TENSORS["state"]["a"].numpy().tobytes())] ^= 1
    saved.write_bytes(data)
    assert checkpoints.load(saved, "this run", notes.append) is None
    assert notes == [f"note: {saved} is damaged and was renamed to checkpoint.pt.damaged; tuning starts again"]


@pytest.mark.parametrize(
    "content",
    [
        5,
        [],
        {},
        {"header": "{}", "tensors": {}},
        {"header": "no JSON", "tensors": {}},
        {"header": "[" * 100_000, "tensors": {}},
        {"header": 5, "tensors": {}},
        {"header": json.dumps({"identity": 5, "progress": {}}), "tensors": {}},
        {"header": json.dumps({"identity": "this run", "progress": []}), "tensors": {}},
        {"header": json.dumps({"identity": "this run", "progress": {}}), "tensors": [1]},
        {"header": json.dumps({"identity": "this run", "progress": {}})},
    ],
    ids=lambda content: str(content)[:40],
)
def test_another_content_with_a_right_digest_is_damaged(saved, content):
    write(saved, content)
    notes = []
    assert checkpoints.load(saved, "this run", notes.append) is None
    assert "is damaged and was renamed" in notes[0]


@pytest.mark.processes
def test_neither_writing_nor_reading_holds_the_bytes_next_to_the_tensors(tmp_path):
    code = """
import resource, sys, torch
from featurepipe.finetuning import checkpoints
from pathlib import Path
path = Path(sys.argv[1])
tensors = {"state": {str(number): torch.ones(2**20) for number in range(64)}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoints.save(path, "this", {}, tensors)
written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
del tensors
assert checkpoints.load(path, "this")[1]["state"]["63"].sum() == 2**20
print(written - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - written)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "c.pt"], capture_output=True, text=True, check=True)
    for kilobytes in map(int, done.stdout.split()):
        assert kilobytes < 100_000  # of 262,144


def test_a_checkpoint_that_is_removed_leaves_no_damaged_one(saved):
    saved.write_bytes(b"noise")
    checkpoints.load(saved, "this run")
    checkpoints.remove(saved)
    assert list(saved.parent.iterdir()) == []


def test_a_checkpoint_runs_no_code(saved):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("code of a file was run",)

    write(saved, {"header": "{}", "tensors": Evil()})
    assert checkpoints.load(saved, "this run") is None


def test_one_that_may_not_be_read_is_named(saved, as_nobody):
    saved.chmod(0)
    with (
        as_nobody(saved.parent),
        pytest.raises(FinetuningError, match=r"checkpoint\.pt cannot be read \(Permission denied\); get the rights"),
    ):
        checkpoints.load(saved, "this run")


def test_writing_that_fails_leaves_the_last_one(saved):
    class Full:
        def __reduce__(self):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(saved, "this run", {**PROGRESS, "epoch": 9}, {**TENSORS, "best": Full()})
    assert checkpoints.load(saved, "this run")[0] == PROGRESS
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_is_named_as_one(saved, limited_file_size):
    large = {**TENSORS, "best": {"a": torch.zeros(100_000)}}
    with limited_file_size(8192), pytest.raises(OutputError, match=r"checkpoint\.pt cannot be written: File too large"):
        checkpoints.save(saved, "this run", {**PROGRESS, "epoch": 9}, large)
    assert checkpoints.load(saved, "this run")[0] == PROGRESS
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]
