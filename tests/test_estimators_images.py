"""What a notebook may give as images: all of it is one image each, or it is refused with what to give instead."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe import FeatureExtractor, TransferClassifier, models
from featurepipe.errors import ImageError
from featurepipe.estimators.images import Images
from featurepipe.estimators.rows import keys_of_files

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), np.uint8)
TRANSFORM = SimpleNamespace(input_size=(3, 32, 32))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = [folder / f"{number}.png" for number in range(3)]
    for path, image in zip(made, IMAGES, strict=False):
        Image.fromarray(image).save(path)
    return made


def encoded(paths):
    return [path.read_bytes() for path in paths]


def series(library, values):
    return pytest.importorskip(library).Series(values)


WAYS = {
    "paths": lambda paths: paths,
    "bytes": encoded,
    "bytearrays": lambda paths: [bytearray(data) for data in encoded(paths)],
    "memory": lambda paths: [io.BytesIO(data) for data in encoded(paths)],
    "open files": lambda paths: [io.BufferedReader(io.BytesIO(data)) for data in encoded(paths)],
    "names as bytes": lambda paths: [str(path).encode() for path in paths],
    "an array of bytes": lambda paths: np.array([str(path).encode() for path in paths]),
    "one column": lambda paths: np.array([str(path) for path in paths])[:, None],
    "one column of objects": lambda paths: np.array(encoded(paths), object)[:, None],
    "a view": lambda paths: dict(enumerate(paths)).values(),
    "bytes of a data set": lambda paths: [{"bytes": data, "path": None} for data in encoded(paths)],
    "paths of a data set": lambda paths: [{"bytes": None, "path": str(path)} for path in paths],
    "pandas": lambda paths: series("pandas", [str(path) for path in paths]),
    "pandas from 50": lambda paths: series("pandas", {50 + i: data for i, data in enumerate(encoded(paths))}),
    "pandas text": lambda paths: series("pandas", [str(path) for path in paths]).astype("string"),
    "a frame": lambda paths: series("pandas", [str(path) for path in paths]).to_frame("path"),
    "polars": lambda paths: series("polars", [str(path) for path in paths]),
    "polars bytes": lambda paths: series("polars", encoded(paths)),
    "a polars frame": lambda paths: series("polars", encoded(paths)).to_frame(),
    "arrow": lambda paths: pytest.importorskip("pyarrow").array(encoded(paths)),
    "arrow scalars": lambda paths: [pytest.importorskip("pyarrow").scalar(data) for data in encoded(paths)],
    "an arrow table": lambda paths: pytest.importorskip("pyarrow").table({"image": encoded(paths)}),
}


@pytest.mark.parametrize("way", WAYS)
def test_files_have_one_digest_and_one_embedding_however_they_come(paths, way):
    X = WAYS[way](paths)
    wanted = Images(TRANSFORM).listed(paths)
    found = Images(TRANSFORM).listed(X)
    assert [item.digest for item in found] == [item.digest for item in wanted]
    np.testing.assert_array_equal(keys_of_files(found), models.digest_keys([item.digest for item in wanted]))
    extractor = FeatureExtractor("pixels").fit(X)
    np.testing.assert_array_equal(extractor.transform(X), extractor.transform(paths))  # a file is read from its start


def test_encoded_images_find_the_embeddings_of_their_files_in_a_store(paths, tmp_path, monkeypatch):
    extractor = FeatureExtractor("pixels", store=tmp_path / "s").fit(paths)
    wanted = extractor.transform(paths)
    monkeypatch.setattr("featurepipe.extraction.fill", None)  # nothing may be computed
    np.testing.assert_array_equal(extractor.transform(encoded(paths)), wanted)


class DataSet:
    """As of torchvision: pairs by their number."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return (IMAGES[number], number)


@pytest.mark.parametrize(
    ("X", "says"),
    [
        ("photo.jpg", "wrap the single str in a list"),
        (".", r"X is the folder '\.'; give the list of its images"),
        (b"photo.jpg", "wrap the single bytes in a list"),
        (io.BytesIO(b"..."), "wrap the single BytesIO in a list"),
        (Image.new("L", (4, 4)), "wrap the single Image in a list"),
        ([], "0 samples"),
        (np.empty((0, 8, 8), np.uint8), "0 samples"),
        (IMAGES[0, :, :, 0], r"got uint8 \(20, 24\); wrap a single image in a list"),
        (IMAGES[0], r"\(20, 24, 3\) may be one image in colour or 20 in grey; give \[X\] for one, X\[\.\.\., None\]"),
        (np.zeros((20, 24, 4), np.uint8), "may be one image in colour or 20 in grey"),
        (IMAGES.astype(float), r"got float64.*X\.astype\('uint8'\)"),
        (IMAGES / 255, r"got float64.*\(X \* 255\)"),
        (IMAGES / 128 - 1, "from -1 to .*undo the normalisation"),
        (IMAGES > 9, r"got bool.*\(X \* 255\)"),
        (IMAGES.transpose(0, 3, 1, 2), r"channels come last.*X\.transpose\(0, 2, 3, 1\)"),
        (IMAGES[None], r"got uint8 \(1, 8, 20, 24, 3\)"),
        (np.array([["a", "b"]], object), "give one column"),
        (None, "got NoneType"),
        (7, "got int"),
        (iter(IMAGES), r"give list\(X\)"),
        ((image for image in IMAGES), r"got generator; .*give list\(X\)"),
        ({"image": IMAGES, "label": [1]}, r"X is a dict of image, label; .*X\['image'\]"),
        ({"a.png"}, "a set, which has no order"),
        (torch.zeros(2, 3, 8, 8), r"torch Tensor \(2, 3, 8, 8\).*permute\(0, 2, 3, 1\).*× 255"),
        ([torch.zeros(3, 8, 8)], r"image 0: it is a torch Tensor.*permute\(1, 2, 0\)"),
        ([IMAGES[0], IMAGES[1].astype(float)], "image 1: .*uint8.*got float64"),
        ([IMAGES[0].transpose(2, 0, 1)], r"image 0: channels come last.*\(1, 2, 0\)"),
        ([[1, 2], [3, 4]], "image 0: .*got list"),
        ([IMAGES[0], None], r"image 1: it is missing \(None\)"),
        ([float("nan")], r"image 0: it is missing \(nan\)"),
        ([IMAGES[0][:, :, :2]], r"image 0: .*got uint8 \(20, 24, 2\)"),
        ([(IMAGES[0], 1)], r"image 0: it is a tuple .*\[d\[0\] for d in X\]"),
        (DataSet(), r"image 0: it is a tuple .*\[d\[0\] for d in X\]"),
        ([{"image": IMAGES[0], "label": 1}], r"image 0: it is a dict of image, label; .*\[d\['image'\] for d in X\]"),
        (["https://example.org/a.jpg"], r"image 0 \(https.*this is a URL; download"),
        ([b"nowhere/a.jpg"], "image 0: .*no file is called b'nowhere/a.jpg'"),
        ([b"\x89PNG broken"], "image 0: not an image"),
        ([io.StringIO("text")], "opened as text"),
        (["nowhere.png"], r"image 0 \(nowhere\.png\) cannot be read: No such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_list_of_images_is_a_clear_value_error(X, says):
    count = len(X) if hasattr(X, "__len__") else 2
    for estimator, y in ((FeatureExtractor("pixels"), None), (TransferClassifier("pixels"), (["a", "b"] * 20)[:count])):
        with pytest.raises(ValueError, match=says) as caught:
            estimator.fit(X, y).transform(X)
        assert " ()" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_of_several_columns_is_refused_by_their_names(library):
    table = pytest.importorskip(library).DataFrame({"path": ["a.png"], "label": ["cat"]})
    with pytest.raises(ValueError, match=r"X is a DataFrame with path, label; give one column, such as X\['path'\]"):
        Images(TRANSFORM).rows(table)


def test_a_missing_path_of_a_column_is_named():
    with pytest.raises(ValueError, match="image 0: it is missing"):
        Images(TRANSFORM).listed(series("pandas", [None]).astype("string"))


def test_grey_images_may_have_any_width_once_they_have_an_axis_for_it():
    stack = IMAGES[..., 0]  # (8, 20, 24)
    assert len(Images(TRANSFORM).listed(stack)) == 8
    narrow = Images(TRANSFORM).listed(stack[:, :, :3, None])
    assert [item.read().shape for item in narrow] == [(20, 3, 3)] * 8
    assert [item.digest for item in Images(TRANSFORM).listed(list(stack[:, :, :3]))] == [item.digest for item in narrow]
    assert len(Images(TRANSFORM).listed([IMAGES[0]])) == len(Images(TRANSFORM).listed(IMAGES[:1])) == 1


def test_a_data_set_ends_where_its_length_says(paths):
    class Endless:  # as a torch Dataset that draws, or counts round
        def __len__(self):
            return 2

        def __getitem__(self, index):
            assert index < 100
            return paths[index % 2]

    assert [item.place for item in Images(TRANSFORM).listed(Endless())] == list(map(str, paths[:2]))


def test_a_closed_file_is_refused_by_name(paths):
    with open(paths[0], "rb") as file:
        pass
    with pytest.raises(ImageError, match="image 0: it is a file that has been closed"):
        Images(TRANSFORM).listed([file])
