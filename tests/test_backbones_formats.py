"""What a weights file is, by its bytes: read whatever its suffix says, or refused with what it is and what to do."""

import argparse
import gzip
import json
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from featurepipe.backbones.formats import NUMPY, SAFETENSORS, TORCH, Unreadable, read_content, recognise

STATE = {"conv.weight": torch.arange(64.0).reshape(4, 16), "conv.bias": torch.zeros(4)}


def written(path, kind):
    """The file of a small state dict."""
    if kind == "safetensors":
        save_file(STATE, path)
    elif kind == "numpy":
        with path.open("wb") as file:
            np.savez(file, **{key: value.numpy() for key, value in STATE.items()})
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "torch")
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".pth", ".bin", ".ckpt", ".npz", ""])
@pytest.mark.parametrize(
    ("kind", "format"),
    [("safetensors", SAFETENSORS), ("torch", TORCH), ("old torch", TORCH), ("numpy", NUMPY)],
)
def test_the_content_decides_not_the_suffix(tmp_path, kind, format, suffix):
    content = read_content(written(tmp_path / f"w{suffix}", kind))
    assert content.format == format
    assert content.values.keys() == STATE.keys()
    assert all(torch.equal(content.values[key], value) for key, value in STATE.items())


def reason(path, data):
    path.write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        read_content(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 22883528\n"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize(
    ("data", "what", "advice"),
    [
        (b"", "it is empty", "download or copy it again"),
        (LFS, "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html>404", "a web page", "download the file behind"),
        (b"\n\n  <html lang='en'>", "a web page", "download the file behind"),
        (b'{"error": "not found"}', "a JSON text", "the weights themselves"),
        (b'{"code":{"a": 1}, "text": "a brace where safetensors have theirs"}', "a JSON text", "weights themselves"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file", "convert it"),
        (b"\x08\x07\x12\x07pytorch" + bytes(99), "an ONNX model", "convert it"),
        (b"GGUF" + bytes(99), "a GGUF file", "convert it"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite model", "convert it"),
        (gzip.compress(b"weights", mtime=0), "compressed with gzip", "gunzip"),
        (b"\x93NUMPY\x01\x00" + bytes(99), "one NumPy array", "npz"),
        (b"something else", "not a safetensors, PyTorch or NumPy file (it begins with b'something el", "again"),
    ],
)
def test_other_files_are_called_by_what_they_are(tmp_path, data, what, advice, suffix):
    found = reason(tmp_path / f"w{suffix}", data)
    assert what in found
    assert advice in found


@pytest.mark.parametrize(
    ("name", "what"),
    [("saved_model.pb", "TensorFlow graph"), ("m.ckpt.index", "TensorFlow checkpoint"), ("flax.MSGPACK", "Flax")],
)
def test_where_the_content_says_nothing_the_suffix_does(tmp_path, name, what):
    assert what in reason(tmp_path / name, b"\x0a\x02" + bytes(99))


@pytest.mark.parametrize("keep", [9, 40, 150, -1])
def test_a_safetensors_file_that_is_cut_short_says_so(tmp_path, keep):
    data = save(STATE)
    assert f"cut short ({len(data[:keep])} of at least" in reason(tmp_path / "w.safetensors", data[:keep])


def test_a_damaged_header_says_so(tmp_path):
    data = bytearray(save(STATE))
    data[9:20] = b"x" * 11
    assert "damaged header" in reason(tmp_path / "w.safetensors", bytes(data))


@pytest.mark.parametrize("header", ["[" * 100_000, '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}'])
def test_a_header_that_no_reader_could_take_is_a_damaged_one(tmp_path, header):
    data = len(header).to_bytes(8, "little") + ("{" + header[1:]).encode() + bytes(99)
    assert "damaged header" in reason(tmp_path / "w.safetensors", data)


@pytest.mark.slow
def test_an_archive_that_becomes_far_larger_is_refused_before_it_is_unpacked(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.savez_compressed(file, weight=np.zeros(2**25, np.float32))
    with pytest.raises(Unreadable, match=r"its tensors take 134217\d+ bytes, more than 20 times its size and 64 MiB"):
        read_content(tmp_path / "w.npz")


@pytest.mark.parametrize("kind", ["torch", "old torch"])
def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path, kind):
    claims = {"model": {"weight": torch.zeros(1, dtype=torch.float16).expand(10**12)}}
    torch.save(claims, tmp_path / "w.pth", _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(Unreadable, match="its tensors take 2000000000000 bytes"):
        read_content(tmp_path / "w.pth")


def test_packed_weights_are_read(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.savez_compressed(file, **{key: value.numpy() for key, value in STATE.items()})
    assert read_content(tmp_path / "w.npz").values.keys() == STATE.keys()


@pytest.mark.parametrize("kind", ["torch", "old torch", "numpy"])
def test_other_files_that_are_cut_short_are_refused(tmp_path, kind):
    data = written(tmp_path / "w", kind).read_bytes()
    for keep in (30, len(data) // 2, len(data) - 30):
        assert "download or copy it again" in reason(tmp_path / "w", data[:keep])


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["m/data.pkl", "m/constants.pkl", "m/code/x.py"], "TorchScript archive.*torch.jit.load"),
        (["config.json", "model.weights.h5"], "Keras model"),
        (["readme.txt", "w.pth"], r"without weights \(it holds readme.txt, w.pth\)"),
        ([], "without weights"),
    ],
)
def test_other_zip_archives_are_called_by_what_they_hold(tmp_path, names, what):
    archive(tmp_path / "w.pth", *names)
    with pytest.raises(Unreadable, match=what):
        recognise(tmp_path / "w.pth")


def test_an_archive_of_a_version_that_python_does_not_know_is_damaged(tmp_path):
    archive(tmp_path / "w.pth", "m/data.pkl")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 6] = 117  # the version that is needed to extract
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(Unreadable, match="a zip archive, as PyTorch writes, that is cut short or damaged"):
        recognise(tmp_path / "w.pth")


def test_a_torchscript_archive_that_torch_wrote_is_known(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch lets TorchScript go, but its files will stay
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "w.pt")
    with pytest.raises(Unreadable, match="TorchScript"):
        read_content(tmp_path / "w.pt")


class Trainer:
    """What training scripts leave next to the weights."""


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize(
    ("thing", "wanted"), [(Trainer(), f"{__name__}.Trainer"), (Code(), "posix.mkdir"), (Path("."), "pathlib")]
)
def test_pickles_that_want_code_name_the_class_and_are_not_run(tmp_path, monkeypatch, kind, thing, wanted):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": STATE, "thing": thing}
    if kind == "pickle":
        Path("w.pth").write_bytes(pickle.dumps(content, 2))
    else:
        torch.save(content, "w.pth", _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(Unreadable) as caught:
        read_content(Path("w.pth"))
    assert "torch.save(model.state_dict(), 'weights.pth')" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not Path("ran").exists()
    if kind != "pickle":
        assert wanted in str(caught.value)


@pytest.mark.parametrize("kind", ["torch", "old torch"])
def test_settings_and_scores_next_to_the_weights_do_no_harm(tmp_path, kind):
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.9), "epoch": np.int64(3), "time": None}
    torch.save({"model": STATE, **beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=kind == "torch")
    before = set(torch.serialization.get_safe_globals())
    content = read_content(tmp_path / "w.pth")
    assert torch.equal(content.values["model"]["conv.weight"], STATE["conv.weight"])
    assert content.values["best"] == 0.9
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_network_itself_is_refused_by_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(Unreadable, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_content(tmp_path / "w.pth")


def test_an_archive_of_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([Code()], dtype=object))
    with pytest.raises(Unreadable, match="NumPy archive that is damaged"):
        read_content(tmp_path / "w.npz")


def test_the_metadata_of_a_safetensors_file_is_kept_under_any_name(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors", {"mean": json.dumps([0.5])})
    shutil.copy(tmp_path / "w.safetensors", tmp_path / "w.pth")
    assert read_content(tmp_path / "w.pth").metadata == {"mean": "[0.5]"}
