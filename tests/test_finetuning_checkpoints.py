"""Checkpoints: whole or not at all, and of one run."""

import pytest
import torch

from featurepipe.errors import FinetuningError, OutputError
from featurepipe.finetuning import checkpoints

TENSORS = {"state": {"a": torch.arange(3.0)}, "optimizer": {"param_groups": [{"lr": 0.1, "params": [0]}], "state": {}}}
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


def test_of_another_run_or_of_none_there_is_nothing(saved, tmp_path):
    assert checkpoints.load(saved, "another run") is None
    assert checkpoints.load(tmp_path / "none.pt", "this run") is None


def test_of_another_format_there_is_nothing(saved, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    assert checkpoints.load(saved, "this run") is None


@pytest.mark.parametrize("broken", ["empty", "cut", "noise", "other"])
def test_a_broken_file_is_named_in_one_line(saved, broken):
    data = saved.read_bytes()
    if broken == "other":
        torch.save({"header": "[1]"}, saved)
    else:
        saved.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": b"\x80\x02noise" * 99}[broken])
    with pytest.raises(FinetuningError) as caught:
        checkpoints.load(saved, "this run")
    assert str(caught.value) == f"{saved} cannot be read as a checkpoint; remove it to start again"


def test_a_checkpoint_runs_no_code(saved):
    class Evil:
        def __reduce__(self):
            return print, ("never",)

    torch.save({"header": "{}", "tensors": Evil()}, saved)
    with pytest.raises(FinetuningError, match="cannot be read as a checkpoint"):
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
