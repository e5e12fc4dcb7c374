"""Fixtures that several test modules share."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe.digests import sha256_file
from featurepipe.stores import Pending


@pytest.fixture(scope="session")
def shared():
    """Folder of real weights and data sets."""
    if not os.environ.get("FEATUREPIPE_SHARED"):
        pytest.skip("FEATUREPIPE_SHARED is not set")
    return Path(os.environ["FEATUREPIPE_SHARED"])


@pytest.fixture
def photos(tmp_path):
    """Factory of folders of class folders, under `splits` if given: gradients that differ by class, with noise."""

    def make(classes=("ant", "bee"), per_class=3, splits=(), *, name="photos", size=(48, 40), seed=0):
        root, rng = tmp_path / name, np.random.default_rng(seed)
        ramp = np.linspace(0, 120, size[0])[None, :, None] * np.ones((size[1], 1, 3))
        for split in splits or ("",):
            for number, label in enumerate(classes):
                folder = root / split / label
                folder.mkdir(parents=True, exist_ok=True)
                for index in range(per_class):
                    pixels = np.roll(ramp, 7 * number, axis=1) + 40 * number + rng.integers(0, 60, ramp.shape)
                    image = Image.fromarray((pixels % 256).astype(np.uint8))
                    image.save(folder / f"{index}.{'png' if index % 3 == 2 else 'jpg'}")
        return root

    return make


@pytest.fixture
def planned(tmp_path):
    """Factory of what a store would plan for so many 32×32 pictures; `planned.vector(n)` is what `Pixels` must give."""

    def picture(seed):
        return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)

    def make(count):
        plan = []
        for seed in range(count):
            path = tmp_path / f"{seed:03}.png"
            Image.fromarray(picture(seed)).save(path)
            plan.append(Pending(sha256_file(path), path))
        return plan

    make.picture = picture
    make.vector = lambda seed: picture(seed).transpose(2, 0, 1).reshape(-1).astype(np.float32) / 255
    return make


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """One thread for small sums: on a busy machine, threads that wait for each other cost tenfold."""
    import sklearn.linear_model  # noqa: F401  # loads the libraries that are limited
    import torch
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def _auto_is_fp32():
    """The same precision on every machine; who tests the choice itself takes `precisions.choose_precision`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurepipe.backbones.creation.choose_precision", lambda *_: "fp32")
        yield
