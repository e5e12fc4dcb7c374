"""Models of Keras and SavedModels as backbones: equal to TensorFlow's own output.

TensorFlow writes them in a process of its own, with what it computes itself.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from featurepipe import backbones, extract, predict, probe
from featurepipe.errors import BackboneError, FinetuningError, WeightsUnavailable
from featurepipe.stages import finetune

if importlib.util.find_spec("keras") is None or importlib.util.find_spec("tensorflow") is None:
    pytest.skip("the extras keras and tensorflow are not installed", allow_module_level=True)
pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Keras and TensorFlow, about NumPy
]

WRITE = """
import os, sys
import numpy as np
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(0)
x = np.load("x.npy")
inputs = keras.Input((24, 24, 3))
h = layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
h = layers.BatchNormalization()(h)
h = layers.SeparableConv2D(16, 3, activation="relu", name="maps")(h)
h = layers.GlobalAveragePooling2D(name="pool")(h)
trunk = keras.Model(inputs, h)
h = layers.Dropout(0.5)(h)
full = keras.Model(inputs, layers.Softmax()(layers.Dense(5, name="scores")(h)))
full.save("full.keras")
np.savez("full.npz", pool=trunk(x), maps=keras.Model(inputs, full.get_layer("maps").output)(x), scores=full(x))
trunk.save("trunk.keras")
trunk.export("trunk", verbose=False)
np.save("trunk.npy", trunk(x))
scaled = keras.Sequential([keras.Input((24, 24, 3)), layers.Rescaling(1 / 127.5, -1), trunk])
scaled.save("scaled.keras")
np.save("scaled.npy", scaled(x))
two = keras.Model([inputs, other := keras.Input((4,))], layers.Concatenate()([trunk(inputs), other]))
two.save("two.keras")
two.export("two", verbose=False)

class Own(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal((24 * 24 * 3, 6), (1, 2)))
    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    def vector(self, images):
        flat = tf.reshape(images, (-1, 24 * 24 * 3))
        return {"vector": flat @ self.w, "sum": tf.reduce_sum(flat, 1, keepdims=True)}
    @tf.function(input_signature=[tf.TensorSpec((None, 24, 24, 3), tf.uint8)])
    def mean(self, images):
        return {"mean": tf.reduce_mean(tf.cast(images, tf.float32), (1, 2))}

own = Own()
tf.saved_model.save(own, "own", signatures={"vector": own.vector, "mean": own.mean})
np.save("own.npy", own.vector(tf.constant(x))["vector"])
tf.saved_model.save(tf.Module(), "none")

v1 = tf.compat.v1
with tf.Graph().as_default(), v1.Session() as session:
    images = v1.placeholder(tf.float32, (None, 24, 24, 3))
    w = v1.get_variable("w", initializer=tf.constant(np.random.default_rng(0).normal(size=(3, 4)), tf.float32))
    out = tf.reduce_mean(images, (1, 2)) @ w
    session.run(v1.global_variables_initializer())
    builder = v1.saved_model.Builder("hub1")
    signature = v1.saved_model.predict_signature_def({"images": images}, {"default": out})
    builder.add_meta_graph_and_variables(session, [], {"default": signature})
    builder.save()
    np.save("hub1.npy", session.run(out, {images: x}))
open("hub1/tfhub_module.pb", "w").close()
"""
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 24, 24), np.uint8)
UNIT = {"mean": 0.0, "std": 1.0}  # of pixels scaled to 0…1
RAW = {"mean": 0.0, "std": 1 / 255}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder with models, and with what TensorFlow makes of the pixels scaled to 0…1."""
    folder = tmp_path_factory.mktemp("written")
    np.save(folder / "x.npy", (PIXELS / np.float32(255)).transpose(0, 2, 3, 1))
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITE], cwd=folder, check=True, env=quiet)
    return folder


def agree(found, wanted):
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert backbones.cosines(found, wanted).min() > 0.9999
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(wanted).max()))


CUTS = [("penultimate", "pool"), ("pool", "pool"), ("maps", "maps"), ("scores", None)]


@pytest.mark.parametrize(("layer", "of"), CUTS)
def test_a_keras_file_gives_what_tensorflow_gave(written, layer, of):
    made = backbones.create(f"keras:{written / 'full.keras'}", layer=layer, transform=UNIT)
    found, wanted = made.embed(PIXELS), np.load(written / "full.npz")
    assert made.transform.input_size == (3, 24, 24)
    if of is not None:
        agree(found, wanted[of].mean((1, 2)) if of == "maps" else wanted[of])
    else:  # before the softmax
        odds = np.exp(found) / np.exp(found).sum(1, keepdims=True)
        agree(odds, wanted["scores"])


def test_a_model_without_a_classifier_gives_its_output(written):
    made = backbones.create(f"keras:{written / 'trunk.keras'}", transform=UNIT)
    agree(made.embed(PIXELS), np.load(written / "trunk.npy"))
    assert any("does not end in a dense layer; the embedding is its output" in note for note in made.notes)


def test_a_model_that_scales_its_pixels_gets_pixels(written):
    made = backbones.create(f"keras:{written / 'scaled.keras'}")
    assert made.transform.std == (1 / 255,) * 3
    swapped = backbones.create(f"keras:{written / 'scaled.keras'}", arguments={"channels": "bgr"})
    np.testing.assert_allclose(swapped.embed(PIXELS[:, ::-1]), made.embed(PIXELS), rtol=1e-6)
    same = backbones.create(f"keras:{written / 'scaled.keras'}", transform={"mean": 0.0, "std": 1.0})
    agree(same.embed(PIXELS), np.load(written / "scaled.npy"))


@pytest.mark.parametrize("name", ["trunk", "hub1"])
def test_a_saved_model_gives_what_tensorflow_gave(written, name):
    made = backbones.create(f"tensorflow:{written / name}")
    agree(made.embed(PIXELS), np.load(written / f"{name}.npy"))
    assert made.transform.input_size == (3, 24, 24)
    assert any("gets pixels scaled to 0–1, as modules of TensorFlow Hub" in note for note in made.notes)


def test_signature_and_output_are_chosen(written):
    name, size = f"tensorflow:{written / 'own'}", {"input_size": (3, 24, 24)}
    made = backbones.create(name, layer="vector", arguments={"signature": "vector"}, transform=size)
    agree(made.embed(PIXELS), np.load(written / "own.npy"))
    mean = backbones.create(name, arguments={"signature": "mean"})
    np.testing.assert_allclose(mean.embed(PIXELS), PIXELS.mean((2, 3)), rtol=1e-5)
    assert mean.fingerprint != made.fingerprint
    again = backbones.recreate(made.spec, made.source, trust=True)
    assert again.fingerprint == made.fingerprint


def test_content_decides_the_fingerprint_and_only_trust_makes_it_again(written, tmp_path):
    for place, copy, family in (("trunk", shutil.copytree, "tensorflow"), ("trunk.keras", shutil.copy, "keras")):
        made = backbones.create(f"{family}:{written / place}")
        copy(written / place, tmp_path / place)
        assert backbones.create(f"{family}:{tmp_path / place}").fingerprint == made.fingerprint
        again = backbones.recreate(made.spec, made.source, weights=tmp_path / place, trust=True)
        assert again.fingerprint == made.fingerprint
        with pytest.raises(BackboneError, match=r"allow it with --trust"):
            backbones.recreate(made.spec, made.source)


def test_what_cannot_be_made_is_one_line(written, tmp_path):
    def refused(name, message, kind=BackboneError, **options):
        with pytest.raises(kind, match=message) as caught:
            backbones.create(name, **options)
        assert "\n" not in str(caught.value)

    keras, folder = f"keras:{written / 'full.keras'}", f"tensorflow:{written / 'own'}"
    refused(f"keras:{tmp_path / 'no.keras'}", "does not exist; write keras:FILE.keras", WeightsUnavailable)
    (tmp_path / "text.keras").write_text("no archive")
    refused(f"keras:{tmp_path / 'text.keras'}", "is not a .keras file, or is damaged")
    with zipfile.ZipFile(tmp_path / "odd.keras", "w") as archive:
        archive.writestr("config.json", '{"config": {}}')
    refused(f"keras:{tmp_path / 'odd.keras'}", "cannot be loaded by Keras")
    refused(keras, "has no layer 'nope'; its last are pool, dropout, scores, softmax", layer="nope")
    refused(keras, "fails on 3×4×4 input", transform={"input_size": (3, 4, 4)})
    refused(keras, "takes the argument channels alone", arguments={"x": 1})
    refused(keras, "takes no weights, random weights or pooling", pooling="avg")
    refused(f"keras:{written / 'two.keras'}", "takes 2 inputs; a backbone takes images and nothing else")
    refused(f"tensorflow:{tmp_path / 'no'}", "does not exist; write tensorflow:FOLDER", WeightsUnavailable)
    refused(f"tensorflow:{tmp_path}", "is not the folder of a SavedModel: it has no saved_model.pb")
    refused(folder, "choose one with --backbone-arg signature=NAME: mean, vector")
    refused(folder, "has no signature 'nope'; choose", arguments={"signature": "nope"})
    one = {"signature": "vector"}
    refused(folder, "choose one with --layer: sum, vector", arguments=one)
    refused(folder, "takes images of any size; give the one", arguments=one, layer="vector")
    refused(f"tensorflow:{written / 'two'}", r"takes 2 inputs \(.*\); a backbone takes images")
    refused(f"tensorflow:{written / 'none'}", "has no signatures; export the model with model.export")
    shutil.copytree(written / "trunk", tmp_path / "cut")
    (tmp_path / "cut" / "saved_model.pb").write_bytes(b"\x0a\x00 broken")
    refused(f"tensorflow:{tmp_path / 'cut'}", "cannot be loaded by TensorFlow")


def test_from_extraction_to_a_prediction(written, photos, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    for name in (f"tensorflow:{written / 'trunk'}", f"keras:{written / 'full.keras'}"):
        assert extract(root, store, backbone=name)["computed"] == 24
        assert extract(root, store, backbone=name)["computed"] == 0
    probe(store, path, backbone="tensorflow:trunk", kind="ridge", baselines="full")
    with pytest.raises(FinetuningError, match="is not a network that can be tuned"):
        finetune(store, backbone="keras:full.keras")
    assert len(predict(path, root, trust=True)["predictions"]) == 24
