"""Data sets as Python objects."""

import io
import pickle
import time

import numpy as np
import pytest
from PIL import Image

from featurepipe.errors import ManifestError, StoreError
from featurepipe.estimators.datasets import is_dataset, of_dataset
from featurepipe.manifests import Manifest
from featurepipe.sources import Files
from featurepipe.stages import extract, run
from featurepipe.stores import Store


class Pairs:
    """Pairs of an image and a number of a class."""

    classes = ("ant", "bee")

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def picture(seed, side=24):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def encoded(seed):
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


def test_items_may_be_all_that_an_image_can_be(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0))
    images = [picture(0), Image.fromarray(picture(0)), encoded(0), str(tmp_path / "a.png"), {"bytes": encoded(0)}]
    manifest = of_dataset(Pairs([(image, 1) for image in images]))
    assert [one.label for one in manifest.samples] == ["bee"] * 5
    digests = [manifest.source.digest(one.place) for one in manifest.samples]
    assert pickle.loads(pickle.dumps(manifest.source)).digest("0") == digests[0]
    assert digests[0] == digests[1]
    assert digests[2] == digests[3] == digests[4] != digests[0]
    assert manifest.source.digest("2") == Files().digest(str(tmp_path / "a.png"))
    result = extract(Pairs([(image, 1) for image in images]), tmp_path / "st", backbone="pixels")
    assert (result["computed"], result["reused"]) == (2, 3)
    assert extract(Pairs([(image, 1) for image in images]), tmp_path / "st", backbone="pixels")["computed"] == 0
    with pytest.raises(StoreError, match="'object' source, which cannot be opened from here"):
        Store.open(tmp_path / "st").source  # noqa: B018


def test_items_may_be_pairs_dicts_or_images_alone():
    items = [picture(0), (picture(1), "x"), {"image": picture(2), "label": np.int64(1)}, {"img": picture(3)}]
    assert [one.label for one in of_dataset(Pairs(items)).samples] == [None, "x", "bee", None]
    kept = Pairs([(picture(0), 0), (picture(1), 1)])
    kept.targets = np.array([1, 0])  # which it keeps, so that no item is asked for
    assert [one.label for one in of_dataset(kept).samples] == ["bee", "ant"]


def test_files_that_a_data_set_lists_are_the_samples(photos, tmp_path):
    root = photos()
    data = Pairs([None] * 6)
    data.samples = [(str(path), int(path.parent.name == "bee")) for path in sorted(root.rglob("*.*"))]
    data.root, data.transform = str(root), len
    manifest = of_dataset(data)
    assert manifest.source == Files(str(root))
    assert [(one.id, one.label) for one in manifest.samples][::5] == [("ant/0.jpg", "ant"), ("bee/2.png", "bee")]
    assert manifest.left_out.lines() == ["the data set's own transform is not used: the backbone has one"]
    assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 6
    assert extract(data, tmp_path / "st", backbone="pixels")["computed"] == 0
    part = Pairs([None] * 2)
    part.dataset, part.indices = data, [0, 5]
    assert [one.id for one in of_dataset(part).samples] == ["ant/0.jpg", "bee/2.png"]


def test_a_part_of_a_part_has_the_names_of_classes():
    parts = [Pairs([(picture(0), 1), (picture(1), 0)])]
    for _ in range(3):
        parts.append(Part(parts[-1]))
    assert [one.label for one in of_dataset(parts[-1]).samples] == ["bee", "ant"]


class Part:
    """As torch's ``Subset``."""

    def __init__(self, dataset):
        self.dataset, self.indices = dataset, [0, 1]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.dataset[index]


def test_another_data_set_of_the_same_class_does_not_take_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Pairs").mkdir()  # which has nothing to do with it
    first, other = ([(picture(n), n % 2) for n in range(start, start + 3)] for start in (0, 10))
    extract(Pairs(first), "st", backbone="pixels")
    with pytest.raises(StoreError, match="describes other samples of Pairs, none of which is among these"):
        extract(Pairs(other), "st", backbone="pixels")
    assert len(Store.open("st").rows()) == 3
    assert extract(Pairs(first + other), "st", backbone="pixels")["computed"] == 3


def test_another_data_set_of_the_same_class_does_not_take_the_store_where_no_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, other = ([(picture(n), n % 2) for n in range(start, start + 3)] for start in (0, 10))
    extract(Pairs(first), "st", backbone="pixels")
    for rehash in (False, True):
        with pytest.raises(StoreError, match="describes other samples of Pairs, none of which is among these"):
            extract(Pairs(other), "st", backbone="pixels", rehash=rehash)


@pytest.mark.parametrize("rehash", [False, True])
def test_an_item_that_fails_is_not_what_had_its_number_before(tmp_path, rehash):
    class Broken(Pairs):
        def __getitem__(self, index):
            if index == 0:
                raise ValueError("broken")
            return super().__getitem__(index)

    items = [(picture(n), n % 2) for n in range(4)]
    extract(Pairs(items), tmp_path / "st", backbone="pixels")
    result = extract(Broken([items[3], *items[1:3], items[0]]), tmp_path / "st", backbone="pixels", rehash=rehash)
    assert (result["computed"], result["reused"], list(result["rejects"])) == (0, 3, ["0000000"])
    assert [row.digest == "" for row in Store.open(tmp_path / "st").rows()] == [True, False, False, False]


@pytest.mark.slow
def test_torchvisions_folder_of_images(photos, tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    root = photos(per_class=4)
    assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 8
    assert extract(datasets.ImageFolder(root), tmp_path / "st", backbone="pixels")["computed"] == 0
    fake = extract(datasets.FakeData(6, (3, 32, 32), 3), tmp_path / "fake", backbone="pixels")
    assert (fake["computed"], fake["rejected"]) == (6, 0)


@pytest.mark.parametrize("as_array", [True, False])
def test_a_data_set_that_fills_one_array_again_gives_each_item_its_own_pixels(tmp_path, as_array):
    class OneBuffer(Pairs):
        targets = (0,) * 24
        buffer = np.zeros((24, 24, 3), np.uint8)

        def __getitem__(self, index):
            self.buffer[:12] = index
            time.sleep(0.001)  # another thread's turn
            self.buffer[12:] = index
            return (self.buffer if as_array else Image.fromarray(self.buffer)), 0

    plain = Pairs([(np.full((24, 24, 3), number, np.uint8), 0) for number in range(24)])
    assert extract(plain, tmp_path / "plain", backbone="pixels")["computed"] == 24
    found = extract(OneBuffer(range(24)), tmp_path / "buffer", backbone="pixels")
    assert (found["computed"], found["rejected"]) == (24, 0)
    digests = [[row.digest for row in Store.open(tmp_path / name).rows()] for name in ("plain", "buffer")]
    assert digests[0] == digests[1]


def test_an_item_that_fails_is_rejected_by_name(tmp_path):
    class Failing(Pairs):
        def __getitem__(self, index):
            if index == 1:
                raise RuntimeError("no such scan")
            return super().__getitem__(index)

    items = [(picture(0), 0), (picture(1), 0), (picture(2).astype(float), 1), (None, 1)]
    result = extract(Failing(items), tmp_path / "st", backbone="pixels")
    assert result["computed"] == 1
    assert result["rejects"]["0000001"] == "cannot be read: item 1 of Failing: no such scan"
    assert "an image array is uint8" in result["rejects"]["0000002"]
    assert "it is missing (None)" in result["rejects"]["0000003"]


def test_an_item_with_other_pixels_each_time_it_is_asked_is_rejected(tmp_path):
    class Restless(Pairs):
        times = 0

        def __getitem__(self, index):
            self.times += 1
            return (picture(self.times) if index else picture(0)), index % 2

    result = extract(Restless(range(3)), tmp_path / "st", backbone="pixels")
    assert (result["computed"], result["rejected"]) == (1, 2)
    assert "gives other pixels each time it is asked" in result["rejects"]["0000001"]


def test_what_is_no_data_set_and_labels_that_are_none(tmp_path):
    assert not any(map(is_dataset, ["photos", tmp_path, b"x", {"a": 1}, Manifest(Files(), []), 3]))
    with pytest.raises(ManifestError, match="Pairs holds 0 samples"):
        of_dataset(Pairs([]))
    with pytest.raises(ManifestError, match="item 0 of Pairs: the label holds an object"):
        of_dataset(Pairs([(picture(0), {"x": 1})]))


@pytest.mark.slow
def test_run_takes_a_data_set_and_names_its_results_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = [(np.full((24, 24, 3), 20 + 200 * (n % 2), np.uint8) + picture(n) // 12, n % 2) for n in range(40)]
    result = run(Pairs(items), backbone="pixels", baselines="none")
    assert result["test"]["top1"] == 1.0
    assert result["store"] == "Pairs.featurepipe/store"
