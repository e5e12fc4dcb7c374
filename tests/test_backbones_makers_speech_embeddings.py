"""The speech embedding of openwakeword: both files in a row, equal to them run by hand."""

import shutil

import numpy as np
import pytest
from recorded import noise, tone, written

from featurepipe import backbones
from featurepipe.errors import BackboneError, FingerprintMismatch, WeightsUnavailable
from featurepipe.sounds import WaveTransform

onnx = pytest.importorskip("onnx", reason="needs featurepipe[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="needs featurepipe[onnx]")
pytest.importorskip("soundfile", reason="needs featurepipe[sound]")
WINDOW, HOP = 512, 160


def saved(path, nodes, given, found, **tensors):
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, found)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two graphs of the shapes of openwakeword's, with random weights."""
    from onnx import helper

    place, rng = tmp_path_factory.mktemp("oww"), np.random.default_rng(0)
    saved(
        place / "melspectrogram.onnx",
        [
            helper.make_node("Unsqueeze", ["x", "one"], ["wave"]),
            helper.make_node("Conv", ["wave", "kernel"], ["mel"], strides=[HOP]),
            helper.make_node("Transpose", ["mel"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("Unsqueeze", ["turned", "one"], ["y"]),
        ],
        [1, None],
        [1, 1, None, 32],
        one=np.array([1]),
        kernel=rng.normal(0, 1e-4, (32, 1, WINDOW)).astype(np.float32),
    )
    saved(
        place / "embedding_model.onnx",
        [
            helper.make_node("Reshape", ["x", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weight"], ["numbers"]),
            helper.make_node("Tanh", ["numbers"], ["small"]),
            helper.make_node("Reshape", ["small", "out"], ["y"]),
        ],
        [None, 76, 32, 1],
        [None, 1, 1, 6],
        flat=np.array([-1, 76 * 32]),
        weight=rng.normal(0, 0.01, (76 * 32, 6)).astype(np.float32),
        out=np.array([-1, 1, 1, 6]),
    )
    return place


def by_hand(folder, signal):
    """As openwakeword does it: a list of windows, 8 frames apart."""
    mel, embed = (
        runtime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("melspectrogram.onnx", "embedding_model.onnx")
    )
    frames = mel.run(None, {"x": 32767 * signal[None]})[0][0, 0] / 10 + 2
    windows = [frames[start : start + 76] for start in range(0, len(frames) - 75, 8)]
    return np.stack([embed.run(None, {"x": window[None, :, :, None]})[0].ravel() for window in windows]).mean(0)


def inputs(made, *signals):
    return np.stack([made.transform.decode(written(signal, subtype="FLOAT")) for signal in signals])


def test_a_vector_is_the_mean_of_both_files_windows(folder):
    made = backbones.create(f"speech-embedding:{folder}", device="cpu")
    signals = noise(2.5), tone(330, 0.9)
    found = made.embed(inputs(made, *signals))
    wanted = np.stack([by_hand(folder, signal) for signal in signals])
    assert (made.width, found.dtype) == (6, np.float32)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_silence_follows_a_sound_that_is_too_short(folder):
    made = backbones.create(f"speech-embedding:{folder}")
    short = tone(330, 0.2)
    filled = np.pad(short, (0, WINDOW + 75 * HOP - len(short)))
    np.testing.assert_allclose(made.embed(inputs(made, short))[0], by_hand(folder, filled), rtol=1e-4, atol=1e-6)


def test_a_long_sound_is_heard_in_windows():
    transform, long = WaveTransform(seconds=1.0, windows=3, least=100), noise(5)
    found = transform.decode(written(long, subtype="FLOAT"))
    assert found.shape == (3, 16_000)
    np.testing.assert_array_equal(found, [long[start : start + 16_000] for start in (0, 32_000, 64_000)])
    brief = transform.decode(written(long[:50], subtype="FLOAT"))
    np.testing.assert_array_equal(brief[0, :100], np.pad(long[:50], (0, 50)))
    assert np.isnan(brief[0, 100:]).all()
    assert np.isnan(brief[1:]).all()


def test_it_is_known_by_content_and_made_again(folder, tmp_path):
    made = backbones.create(f"speech-embedding:{folder}")
    shutil.copytree(folder, tmp_path / "moved")
    assert backbones.create(f"speech-embedding:{tmp_path / 'moved'}").fingerprint == made.fingerprint
    again = backbones.recreate(made.spec, made.source, device="cpu")
    assert again.fingerprint == made.fingerprint
    moved = {**made.source, "name": f"speech-embedding:{tmp_path / 'moved'}"}
    shutil.copy(folder / "embedding_model.onnx", tmp_path / "moved" / "melspectrogram.onnx")
    with pytest.raises((FingerprintMismatch, BackboneError)):
        backbones.recreate(made.spec, moved, device="cpu")


@pytest.mark.parametrize(
    ("change", "options", "error", "says"),
    [
        (None, {"layer": "x"}, BackboneError, "takes no arguments"),
        (None, {"device": "cuda"}, BackboneError, "runs on the CPU alone"),
        (None, {"medium": "image"}, BackboneError, "is for sounds, not for images"),
        ("missing", {}, WeightsUnavailable, r"embedding_model\.onnx does not exist; speech-embedding:FOLDER holds"),
        ("broken", {}, BackboneError, r"embedding_model\.onnx cannot be run by onnxruntime"),
        ("swapped", {}, BackboneError, "fails on a sound of a second: .*give openwakeword's files"),
    ],
)
def test_what_cannot_be_made_is_one_line(folder, tmp_path, change, options, error, says):
    place = tmp_path / "oww"
    shutil.copytree(folder, place)
    if change == "missing":
        (place / "embedding_model.onnx").unlink()
    elif change == "broken":
        (place / "embedding_model.onnx").write_bytes(b"no graph")
    elif change == "swapped":
        shutil.copy(place / "melspectrogram.onnx", place / "embedding_model.onnx")
    with pytest.raises(error, match=says) as caught:
        backbones.create(f"speech-embedding:{place}", **options)
    assert "\n" not in str(caught.value)
