"""Families whose library is not installed."""

import sys

import pytest

from featurepipe import backbones
from featurepipe.errors import DependencyMissing


@pytest.mark.parametrize(
    ("family", "library", "place"),
    [
        ("transformers", "transformers", "folder"),
        ("open_clip", "open_clip", "ViT-B-32/openai"),
        ("onnx", "onnx", "net.onnx"),
        ("onnx", "onnxruntime", "net.onnx"),
        ("keras", "keras", "net.keras"),
        ("tensorflow", "tensorflow", "folder"),
    ],
)
def test_a_library_that_is_missing_is_one_line_with_the_command(family, library, place, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "saved_model.pb").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)  # what Python takes for a library that is not there
    if library == "onnxruntime":  # alone
        monkeypatch.setitem(sys.modules, "onnx", sys.modules[__name__])
    with pytest.raises(DependencyMissing, match=rf"needs .*: pip install 'featurepipe\[{family}\]'") as caught:
        backbones.create(f"{family}:{place}")
    assert "\n" not in str(caught.value)


def test_names_of_what_is_not_installed_are_left_out_unless_they_are_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backbones("bundl*") == ["bundled", "bundled-1"]
    with pytest.raises(DependencyMissing, match="pip install"):
        backbones("open_clip:*")
