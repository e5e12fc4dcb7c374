"""Checkpoints: whole or not at all, of one run, and nothing is learned from a damaged one."""

import json

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


def test_of_another_run_or_of_none_there_is_nothing_to_say(saved, tmp_path):
    notes = []
    assert checkpoints.load(saved, "another run", notes.append) is None
    assert checkpoints.load(tmp_path / "none.pt", "this run", notes.append) is None
    assert (notes, saved.is_file()) == ([], True)


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


def test_one_of_an_earlier_featurepipe_is_not_gone_on_from(saved):
    notes = []
    header = json.dumps({"format": 1, "identity": "this run", "progress": PROGRESS})
    torch.save({"header": header, "tensors": TENSORS}, saved)
    assert checkpoints.load(saved, "this run", notes.append) is None
    assert notes == [f"note: {saved} was written by an earlier featurepipe and has no digest; tuning starts again"]
    assert saved.is_file()  # the next checkpoint replaces it


def test_a_checkpoint_runs_no_code(saved):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("code of a file was run",)

    torch.save({"header": "{}", "tensors": Evil()}, saved)
    content = saved.read_bytes()
    saved.write_bytes(checkpoints.START + checkpoints._line(content) + content)
    assert checkpoints.load(saved, "this run") is None


def test_one_that_may_not_be_read_is_named(saved, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints, "open", refused, raising=False)
    with pytest.raises(FinetuningError, match=r"checkpoint\.pt cannot be read \(Permission denied\); get the rights"):
        checkpoints.load(saved, "this run")


def test_writing_that_fails_leaves_the_last_one(saved, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(saved, "this run", {**PROGRESS, "epoch": 9}, TENSORS)
    assert checkpoints.load(saved, "this run")[0] == PROGRESS
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_is_named_as_one(saved, limited_file_size):
    large = {**TENSORS, "best": {"a": torch.zeros(100_000)}}
    with limited_file_size(8192), pytest.raises(OutputError, match=r"checkpoint\.pt cannot be written: File too large"):
        checkpoints.save(saved, "this run", {**PROGRESS, "epoch": 9}, large)
    assert checkpoints.load(saved, "this run")[0] == PROGRESS
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]
