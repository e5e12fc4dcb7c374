"""Hand-crafted descriptors: their vectors, what decides them, and their life as backbones."""

import colorsys
import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

from featurepipe import backbones, extract, models, predict, probe, shards
from featurepipe.backbones.makers import BUNDLED_FILES
from featurepipe.errors import BackboneError, DependencyMissing, FingerprintMismatch, WeightsUnavailable
from featurepipe.extraction import versions
from featurepipe.images import decode
from featurepipe.stages import run
from featurepipe.stores import Store

try:
    from skimage import feature
except ImportError:
    feature = None
try:
    import cv2
except ImportError:
    cv2 = None
needs_skimage = pytest.mark.skipif(feature is None, reason="needs scikit-image")
needs_cv2 = pytest.mark.skipif(cv2 is None, reason="needs OpenCV")
EACH = ["pixels", "color-histogram", pytest.param("hog", marks=needs_skimage), pytest.param("sift", marks=needs_cv2)]
WIDTHS = {"pixels": 3072, "color-histogram": 256, "hog": 7 * 7 * 4 * 9, "sift": 5}


def noise(count, side=128, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


def photo(seed=0):
    """Something with edges, slopes and colours, uint8 (3, 128, 128)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128]
    waves = [128 + 100 * np.sin(x / rng.uniform(2, 9) + y / rng.uniform(2, 9)) for _ in range(3)]
    return np.clip(np.stack(waves) + rng.normal(0, 8, (3, 128, 128)), 0, 255).astype(np.uint8)


@pytest.fixture
def codebook(tmp_path):
    """Factory of codebook files."""

    def make(words=5, name="codebook.safetensors", seed=0):
        book = np.random.default_rng(seed).random((words, 128), np.float32)
        backbones.save_codebook(tmp_path / name, book / np.linalg.norm(book, axis=1, keepdims=True), {"seed": seed})
        return tmp_path / name

    return make


@pytest.fixture
def create(codebook):
    return lambda name: backbones.create(name, **({"weights": codebook()} if name == "sift" else {}))


# -- what all of them have ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_a_descriptor_is_a_backbone(create, name):
    made = create(name)
    assert (made.name, made.device, made.width) == (name, "cpu", WIDTHS[name])
    assert made.spec["architecture"] == name
    assert made.members == (made,)
    pixels = noise(3, made.transform.input_size[1])
    vectors = made.embed(pixels)
    assert (vectors.shape, vectors.dtype) == ((3, made.width), np.float32)
    assert np.isfinite(vectors).all()
    assert np.ptp(vectors, axis=0).max() > 0
    assert made.embed(pixels[:0]).shape == (0, made.width)
    assert name in backbones.names()


@pytest.mark.parametrize("name", EACH)
def test_a_vector_does_not_depend_on_its_batch(create, name):
    made = create(name)
    pixels = noise(4, made.transform.input_size[1])
    together = made.embed(pixels)
    assert all((made.embed(pixels[i : i + 1]) == together[i]).all() for i in range(4))
    assert (made.embed(pixels[::-1])[::-1] == together).all()


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("value", [0, 255])
def test_an_image_without_anything_on_it_has_a_finite_vector(create, name, value):
    made = create(name)
    assert np.isfinite(made.embed(np.full((1, *made.transform.input_size), value, np.uint8))).all()


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("decoder", ["torchvision", "pillow", "draft"])
def test_a_descriptor_is_made_again_from_its_spec(create, name, decoder):
    made = create(name)
    made = dataclasses.replace(made, transform=dataclasses.replace(made.transform, decoder=decoder))
    spec, source = json.loads(json.dumps([made.spec, made.source]))
    again = backbones.recreate(spec, source)
    assert (again.fingerprint, again.transform.decoder) == (made.fingerprint, decoder)
    pixels = noise(2, made.transform.input_size[1])
    assert (again.embed(pixels) == made.embed(pixels)).all()


@pytest.mark.parametrize("name", EACH)
def test_other_parameters_are_another_descriptor(create, name):
    made = create(name)
    with pytest.raises(FingerprintMismatch, match="arguments"):
        backbones.recreate({**made.spec, "arguments": {"bins": 7}}, made.source)


def test_all_fingerprints_differ(create):
    names = [name for name in ("pixels", "color-histogram", "hog", "sift") if name not in missing()]
    assert len({create(name).fingerprint for name in names}) == len(names)


def missing():
    return {*(["hog"] if feature is None else []), *(["sift"] if cv2 is None else [])}


@pytest.mark.parametrize(
    "options",
    [
        {"arguments": {"orientations": 8}},
        {"random_weights": True},
        {"layer": "stage1"},
        {"pooling": "max"},
        {"precision": "bf16"},
        {"transform": {"crop_pct": 0.5}},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("name", ["pixels", "color-histogram", "hog", "sift"])
def test_options_of_networks_are_refused(name, options):
    with pytest.raises(BackboneError, match=f"{name} takes no arguments"):
        backbones.create(name, **options)


@pytest.mark.parametrize("name", ["pixels", "color-histogram", "hog"])
def test_weights_are_refused_where_nothing_was_learned(name):
    with pytest.raises(BackboneError, match="has no weights; leave w out"):
        backbones.create(name, weights="w")


@pytest.mark.parametrize(("name", "module", "said"), [("hog", "skimage", "scikit-image"), ("sift", "cv2", "OpenCV")])
def test_a_missing_library_is_named_with_the_way_to_get_it(codebook, monkeypatch, name, module, said):
    path = codebook()
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"{module}.feature", raising=False)
    with pytest.raises(DependencyMissing, match=rf"needs {said}: pip install 'featurepipe\[handcrafted\]'"):
        backbones.create(name, weights=path if name == "sift" else None)


# -- HOG ----------------------------------------------------------------------------------------------------------


@needs_skimage
def test_hog_is_scikit_images():
    images = np.stack([photo(0), photo(1), noise(1)[0]])
    wanted = [
        feature.hog(
            image.transpose(1, 2, 0),
            orientations=9,
            pixels_per_cell=(16, 16),
            cells_per_block=(2, 2),
            block_norm="L2-Hys",
            transform_sqrt=True,
            channel_axis=-1,
        )
        for image in images
    ]
    np.testing.assert_allclose(backbones.create("hog").embed(images), wanted, atol=1e-6)


@needs_skimage
def test_hog_sees_the_direction_of_edges():
    stripes = np.zeros((2, 3, 128, 128), np.uint8)
    stripes[0, :, :, ::8] = 255
    stripes[1, :, ::8, :] = 255
    upright, level = backbones.create("hog").embed(stripes).reshape(2, -1, 9).sum(axis=1)  # (9,) each
    assert {int(upright.argmax()), int(level.argmax())} == {0, 4}


# -- colour histogram ---------------------------------------------------------------------------------------------


def test_a_colour_histogram_is_numpys():
    images = np.stack([photo(0), photo(1), noise(1)[0]])
    for image, vector in zip(images, backbones.create("color-histogram").embed(images), strict=True):
        hsv = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("HSV")).reshape(-1, 3)
        counts, _ = np.histogramdd(hsv, bins=(16, 4, 4), range=[(0, 256)] * 3)
        np.testing.assert_allclose(vector, np.sqrt(counts.reshape(-1) / len(hsv)), rtol=1e-6)
        assert (vector**2).sum() == pytest.approx(1)


@pytest.mark.parametrize("colour", [(255, 0, 0), (250, 200, 10), (20, 120, 60), (90, 90, 200), (130, 130, 130)])
def test_a_plain_colour_falls_into_the_bin_of_its_hue_saturation_and_value(colour):
    image = np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, 128, 128))
    (vector,) = backbones.create("color-histogram").embed(image[None])
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    assert vector.argmax() == int(hue * 16) * 16 + int(min(saturation * 4, 3)) * 4 + int(min(value * 4, 3))
    assert np.count_nonzero(vector) == 1


def test_a_colour_histogram_does_not_care_where_colours_are():
    image = photo()
    made = backbones.create("color-histogram")
    shuffled = np.random.default_rng(0).permutation(image.reshape(3, -1), axis=1).reshape(image.shape)
    assert (made.embed(image[None]) == made.embed(shuffled[None])).all()


# -- SIFT ---------------------------------------------------------------------------------------------------------


@needs_cv2
def test_a_bag_of_words_counts_the_nearest_word_of_every_patch(codebook):
    image, made = photo(), backbones.create("sift", weights=codebook())
    grey = cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
    places = [(x + 7.5, y + 7.5) for y in range(0, 113, 4) for x in range(0, 113, 4)]
    keypoints = [cv2.KeyPoint(x, y, 16 / 6, 0) for x, y in places]
    _, found = cv2.SIFT_create().compute(grey, keypoints)
    root = np.sqrt(found / found.sum(axis=1, keepdims=True))  # (841, 128)
    distances = ((root[:, None] - made.codebook) ** 2).sum(axis=2)
    counts = np.bincount(distances.argmin(axis=1), minlength=5)
    assert counts.sum() == 29 * 29
    np.testing.assert_allclose(made.embed(image[None])[0], np.sqrt(counts / counts.sum()), rtol=1e-6)


@needs_cv2
def test_patches_are_every_eighth_descriptor_of_the_grid():
    image = photo()
    patches = backbones.Patches()
    (found,) = patches.embed(image[None]).reshape(1, -1, 128)
    assert found.shape == (106, 128)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)  # RootSIFT's own length
    assert "sift-patches" not in backbones.names()


@pytest.mark.slow
def test_a_codebook_is_learned_from_descriptors_and_a_seed():
    descriptors = np.random.default_rng(0).random((3000, 128), np.float32)
    one, again, other = (backbones.learn_codebook(descriptors, seed) for seed in (0, 0, 1))
    assert (one.shape, one.dtype) == ((256, 128), np.float32)
    assert (one == again).all()
    assert (one != other).any()


def test_few_distinct_descriptors_are_the_words_themselves():
    descriptors = np.eye(4, 128, dtype=np.float32)[[0, 1, 1, 2, 3, 3, 0]]
    book = backbones.learn_codebook(descriptors, 0)
    assert sorted(book.argmax(axis=1).tolist()) == [0, 1, 2, 3]


def test_a_codebook_says_what_it_was_learned_from(tmp_path):
    backbones.save_codebook(tmp_path / "c.safetensors", np.eye(3, 128, dtype=np.float32), {"images": ["ab"], "seed": 3})
    assert backbones.learned_from(tmp_path / "c.safetensors") == {"images": ["ab"], "seed": 3}


@needs_cv2
def test_another_codebook_is_another_backbone(codebook):
    one, same = (backbones.create("sift", weights=codebook(name=name)) for name in ("a.safetensors", "b.safetensors"))
    other = backbones.create("sift", weights=codebook(name="c.safetensors", seed=1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with pytest.raises(FingerprintMismatch, match="weights"):
        backbones.recreate(one.spec, other.source)


@needs_cv2
def test_sift_without_a_codebook_says_where_one_comes_from(tmp_path):
    with pytest.raises(WeightsUnavailable, match="sift needs a codebook; featurepipe compare STORE --baselines full"):
        backbones.create("sift")
    with pytest.raises(WeightsUnavailable, match="does not exist"):
        backbones.create("sift", weights=tmp_path / "gone.safetensors")
    with pytest.raises(BackboneError, match="holds no codebook of SIFT words"):
        backbones.create("sift", weights=BUNDLED_FILES["bundled"])


# -- in use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_the_store_holds_what_embed_gives(create, photos, tmp_path, name):
    made, data = create(name), photos()
    result = extract(data, tmp_path / "s", backbone=made, workers=1)
    assert (result["computed"], result["width"]) == (6, made.width)
    store = Store.open(tmp_path / "s")
    (entry,) = store.entries()
    assert entry.is_baseline
    (shard,) = (index.path for index in entry.indexes)
    held = shards.read(shard)
    for row, vector in zip(store.rows(), held.embeddings, strict=True):
        pixels = decode((data / row.sample.place).read_bytes(), made.transform)
        np.testing.assert_array_equal(vector, made.embed(pixels[None])[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_the_whole_pipeline_takes_a_descriptor_by_name(codebook, photos, tmp_path, name):
    data = photos(per_class=5, splits=("train", "test"))
    weights = {"weights": codebook()} if name == "sift" else {}
    result = run(data, tmp_path / "r", backbone=name, kind="ridge", value=1.0, workers=1, **weights)
    assert result["backbone"] == name
    assert (result["baselines"]["pixels"] is None) is (name == "pixels")
    assert result["baselines"]["random_backbone"] is None
    title = {"hog": "HOG", "pixels": "raw pixels", "color-histogram": "a colour histogram", "sift": "SIFT words"}[name]
    assert (
        title
        in (tmp_path / "r" / Store.open(tmp_path / "r/store").choose(name).folder.name / "report.html").read_text()
    )
    done = predict(result["model"], data / "test" / "bee", tmp_path / "p.csv", workers=1)
    assert done["predicted"] == 5


def test_full_baselines_of_a_descriptor_have_no_untrained_twin(photos, tmp_path):
    extract(photos(per_class=5), tmp_path / "s", backbone="color-histogram", workers=1)
    found = probe(tmp_path / "s", backbone="color-histogram", kind="ridge", baselines="full", workers=1)["baselines"]
    assert found["pixels"] is not None
    assert found["random_backbone"] is None


@pytest.mark.slow
@needs_cv2
def test_a_model_file_may_carry_the_codebook(codebook, photos, tmp_path):
    data, path = photos(per_class=5), codebook()
    made = backbones.create("sift", weights=path)
    extract(data, tmp_path / "s", backbone=made, workers=1)
    model = probe(
        tmp_path / "s", tmp_path / "m.safetensors", kind="ridge", include_backbone=True, backbone=made, baselines="none"
    )["model"]
    path.unlink()
    opened = models.open_backbone(models.load(model), model)
    assert opened.fingerprint == made.fingerprint
    assert (opened.codebook == made.codebook).all()


@needs_skimage
def test_the_versions_of_optional_libraries_are_recorded():
    assert "scikit-image" in versions()
