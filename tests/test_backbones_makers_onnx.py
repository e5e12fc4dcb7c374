"""ONNX files as backbones: equal to the network that was exported, and to onnxruntime's own outputs."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe import backbones, extract, predict, probe
from featurepipe.backbones.makers.foreign import Feed
from featurepipe.errors import BackboneError, FinetuningError, ModelFileError, WeightsUnavailable
from featurepipe.images import decode
from featurepipe.stages import finetune

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


def exported(path, module, size, dynamic=("pixels",), **options):
    """Writes a torch network as an ONNX file."""
    axes = {name: {0: "n"} for name in dynamic}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            torch.zeros(2, *size),
            path,
            input_names=["pixels"],
            dynamo=False,
            dynamic_axes=axes,
            **options,
        )
    return path


def network(name="test_resnet", size=(3, 64, 64), seed=0):
    import timm

    torch.manual_seed(seed)
    more = {"img_size": size[1]} if "vit" in name else {}
    return timm.create_model(name, num_classes=7, **more)


@pytest.fixture
def file(tmp_path):
    return exported(tmp_path / "net.onnx", network(), (3, 64, 64))


def graph_file(path, nodes, *, shape=("n", 3, 8, 8), inputs=("x",), outputs=("y",), weights=(), dtype=FLOAT):
    """Writes a graph of a few nodes."""
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


MEAN = helper.make_node("GlobalAveragePool", ["x"], ["y"])


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 64), ("test_vit", 160), ("mobilenetv3_small_050", 64)])
def test_a_network_of_timm_gives_the_vectors_that_it_gave_before_it_was_exported(tmp_path, name, size):
    module = network(name, (3, size, size))
    path = exported(tmp_path / "net.onnx", module, (3, size, size))
    made = backbones.create(f"onnx:{path}")
    pixels = made.transform.trial(3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (made.transform.mean, made.transform.std))
    with torch.no_grad():
        wanted = module.forward_head(module.forward_features((torch.from_numpy(pixels) / 255 - mean) / std), True)
    found = made.embed(pixels)
    assert found.shape == wanted.shape == (3, made.width)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert backbones.cosines(found, wanted.numpy()).min() > 0.9999


def test_the_same_network_as_timms_own_on_real_files(tmp_path):
    module = network()
    path = exported(tmp_path / "net.onnx", module, (3, 64, 64))
    torch.save(module.state_dict(), tmp_path / "net.pth")
    how = {"transform": {"input_size": (3, 64, 64), "mean": 0.5, "std": 0.25}}
    made = backbones.create(f"onnx:{path}", **how)
    own = backbones.create("test_resnet", weights=tmp_path / "net.pth", precision="fp32", device="cpu", **how)
    noise = np.random.default_rng(0).integers(0, 255, (100, 130, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "png")
    pixels = [decode(buffer.getvalue(), one.transform)[None] for one in (made, own)]
    if made.transform.interpolation == own.transform.interpolation:
        np.testing.assert_array_equal(*pixels)
    np.testing.assert_allclose(made.embed(pixels[1]), own.embed(pixels[1]), rtol=1e-3, atol=1e-4)


def test_any_tensor_can_be_named(file):
    whole, first = (backbones.create(f"onnx:{file}", layer=layer) for layer in ("penultimate", "/conv1/conv1.0/Conv"))
    outputs = [one.name for one in onnx.load(file).graph.output]
    logits = backbones.create(f"onnx:{file}", layer=outputs[0])
    assert (whole.width, logits.width) == (96, 7)
    assert whole.spec["arguments"]["output"] != logits.spec["arguments"]["output"] == outputs[0]
    session = onnxruntime.InferenceSession(str(file))
    pixels = logits.transform.trial(2)
    (x,) = logits.feed.batches(pixels, logits.transform)
    np.testing.assert_allclose(logits.embed(pixels), session.run(None, {"pixels": x})[0], rtol=1e-4, atol=1e-5)
    assert first.width == first.run(x).shape[1]  # a map, of which the mean is taken
    np.testing.assert_allclose(first.embed(pixels), first.run(x).mean((2, 3)), rtol=1e-5)


def test_a_graph_for_one_image_at_a_time_runs_on_many(tmp_path):
    module = network()
    many = backbones.create(f"onnx:{exported(tmp_path / 'many.onnx', module, (3, 64, 64))}")
    two = backbones.create(f"onnx:{exported(tmp_path / 'two.onnx', module, (3, 64, 64), dynamic=())}")
    assert (many.feed.batch, two.feed.batch) == (None, 2)
    pixels = many.transform.trial(5)
    np.testing.assert_allclose(two.embed(pixels), many.embed(pixels), rtol=1e-4, atol=1e-5)
    assert two.embed(pixels[:0]).shape == (0, two.width)


def test_inputs_are_laid_out_as_the_graph_wants_them():
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    transform = backbones.create("pixels").transform
    (x,) = Feed(last=True, dtype=np.dtype(np.float32), reversed=True).batches(pixels, transform)
    np.testing.assert_allclose(x, pixels[:, ::-1].transpose(0, 2, 3, 1) / 255, rtol=1e-6)
    (x,) = Feed(last=False, dtype=np.dtype(np.uint8)).batches(pixels, transform)
    np.testing.assert_array_equal(x, pixels)
    assert len(Feed(last=False, dtype=np.dtype(np.uint8), batch=1).batches(pixels, transform)) == 2


def test_channels_last_and_pixels_themselves(tmp_path):
    cast = helper.make_node("Cast", ["x"], ["f"], to=FLOAT)
    mean = helper.make_node("ReduceMean", ["f"], ["y"], axes=[1, 2], keepdims=0)
    path = graph_file(tmp_path / "g.onnx", [cast, mean], shape=("n", 8, 9, 3), dtype=onnx.TensorProto.UINT8)
    made = backbones.create(f"onnx:{path}")
    pixels = made.transform.trial(2)
    assert made.transform.input_size == (3, 8, 9)
    np.testing.assert_allclose(made.embed(pixels), pixels.mean((2, 3)), rtol=1e-5)
    swapped = backbones.create(f"onnx:{path}", arguments={"channels": "bgr"})
    np.testing.assert_allclose(swapped.embed(pixels), pixels.mean((2, 3))[:, ::-1], rtol=1e-5)
    assert swapped.fingerprint != made.fingerprint


def test_the_end_of_a_classifier_is_found_and_nothing_else(tmp_path):
    from featurepipe.backbones.makers.onnx_files import find_classifier

    def found(*nodes, weights=("w", "b")):
        named = [(name, np.zeros((3, 3))) for name in weights]
        return find_classifier(onnx.load(graph_file(tmp_path / "g.onnx", nodes, weights=named)).graph)

    node = helper.make_node
    flat = node("Flatten", ["p"], ["f"])
    head = [node("GlobalAveragePool", ["x"], ["p"]), flat]
    assert found(*head, node("Gemm", ["f", "w", "b"], ["y"])) == "f"
    product = node("MatMul", ["f", "w"], ["m"])
    assert found(*head, product, node("Add", ["m", "b"], ["a"]), node("Softmax", ["a"], ["y"])) == "f"
    assert found(*head, node("Identity", ["w"], ["v"]), node("MatMul", ["f", "v"], ["y"])) == "f"
    assert found(*head, node("MatMul", ["f", "f"], ["y"])) is None  # attention
    assert found(*head, node("MatMul", ["f", "w"], ["m"]), node("Add", ["m", "f"], ["y"])) is None  # a block's end
    assert found(*head, node("Relu", ["f"], ["y"])) is None


def test_a_graph_without_a_classifier_gives_its_output_and_says_so(tmp_path):
    made = backbones.create(f"onnx:{graph_file(tmp_path / 'g.onnx', [MEAN])}")
    assert made.width == 3
    assert any("does not end in a linear classifier; the embedding is its output y" in note for note in made.notes)
    assert any("comes without a transform" in note for note in made.notes)
    given = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}
    quiet = backbones.create(f"onnx:{tmp_path / 'g.onnx'}", transform=given)
    assert not any("transform" in note for note in quiet.notes)


def test_tensors_may_lie_in_another_file(tmp_path, file):
    folder = tmp_path / "outside"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(onnx.load(file), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    made, own = backbones.create(f"onnx:{path}"), backbones.create(f"onnx:{file}")
    pixels = own.transform.trial(2)
    np.testing.assert_array_equal(made.embed(pixels), own.embed(pixels))
    (folder / "net.bin").write_bytes(bytes(len((folder / "net.bin").read_bytes())))
    assert backbones.create(f"onnx:{path}", layer="/conv1/conv1.0/Conv").spec["weights"] != made.spec["weights"]
    (folder / "net.bin").unlink()
    with pytest.raises(BackboneError, match=r"keeps tensors in .*net.bin, which is not in its folder"):
        backbones.create(f"onnx:{path}")


def test_content_decides_the_fingerprint_and_it_is_made_again(file, tmp_path):
    made = backbones.create(f"onnx:{file}")
    moved = file.rename(tmp_path / "moved.onnx")
    again = backbones.recreate(made.spec, made.source, weights=moved)
    assert again.fingerprint == made.fingerprint
    assert backbones.recreate(again.spec, again.source).fingerprint == made.fingerprint
    with pytest.raises(BackboneError, match="wants to open '/etc/passwd', whose name is not that of a weights file"):
        backbones.recreate(made.spec, {**made.source, "name": "onnx:/etc/passwd"})


def test_what_cannot_be_made_is_one_line(tmp_path, file):
    def refused(path, message, kind=BackboneError, **options):
        with pytest.raises(kind, match=message) as caught:
            backbones.create(f"onnx:{path}", **options)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "no.onnx", "does not exist; write onnx:FILE", WeightsUnavailable)
    (tmp_path / "text.onnx").write_text("no graph at all")
    refused(tmp_path / "text.onnx", "is not an ONNX file, or is damaged")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "is not an ONNX file, or is damaged: it holds no graph")
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:50_000])
    refused(tmp_path / "cut.onnx", "is not an ONNX file, or is damaged")
    add = helper.make_node("Add", ["a", "b"], ["y"])
    refused(graph_file(tmp_path / "2.onnx", [add], inputs=("a", "b")), r"takes 2 inputs \(a, b\); a backbone takes")
    any_size = graph_file(tmp_path / "any.onnx", [MEAN], shape=("n", 3, "h", "w"))
    refused(any_size, "takes images of any size; give the one that it was trained with: --input-size 3 224 224")
    assert backbones.create(f"onnx:{any_size}", transform={"input_size": (3, 8, 8)}).width == 3
    refused(graph_file(tmp_path / "3.onnx", [MEAN], shape=("n", 3, 8)), r"its input is float32 of shape \(any, 3, 8\)")
    refused(graph_file(tmp_path / "4.onnx", [MEAN], shape=("n", 4, 8, 8)), "takes 4 channels; images give 1 or 3")
    both = [MEAN, helper.make_node("Relu", ["x"], ["z"])]
    refused(graph_file(tmp_path / "5.onnx", both, outputs=("y", "z")), "gives 2 outputs; choose one with --layer: y, z")
    unknown = helper.make_node("Nothing", ["x"], ["y"])
    refused(graph_file(tmp_path / "6.onnx", [unknown]), "cannot be run by onnxruntime")
    rows = graph_file(tmp_path / "7.onnx", [helper.make_node("Squeeze", ["x"], ["y"])], shape=(1, 3, 8, 8))
    refused(rows, r"gives float32 of shape \(3, 8, 8\) for 1 images, not one vector for each")
    refused(file, "has no tensor 'nope'", layer="nope")
    refused(file, r"fails on 3×32×32 input", transform={"input_size": (3, 32, 32)})
    refused(file, "takes no weights, random weights or pooling", random_weights=True)
    refused(file, "takes the argument channels alone, not 'x'", arguments={"x": 1})
    refused(file, "channels is rgb or bgr, not 'grb'", arguments={"channels": "grb"})
    refused(file, "runs on the CPU alone", device="cuda")


def test_from_extraction_to_a_prediction(photos, file, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    name = f"onnx:{file}"
    assert extract(root, store, backbone=name)["computed"] == 24
    assert extract(root, store, backbone=name)["computed"] == 0
    with pytest.raises(ModelFileError, match="cannot be stored in a model file; leave out --include-backbone"):
        probe(store, path, backbone="onnx:net.onnx", kind="ridge", baselines="none", include_backbone=True)
    probe(store, path, backbone="onnx:net.onnx", kind="ridge", baselines="full")
    with pytest.raises(FinetuningError, match="is not a network that can be tuned"):
        finetune(store, backbone="onnx:net.onnx")
    assert len(predict(path, root)["predictions"]) == 24
