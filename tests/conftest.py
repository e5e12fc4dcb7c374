"""Fixtures that several test modules share."""

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe.digests import sha256_file
from featurepipe.sources import Files, InMemory
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
            plan.append(Pending(sha256_file(path), Files(), str(path)))
        return plan

    make.picture = picture
    make.vector = lambda seed: picture(seed).transpose(2, 0, 1).reshape(-1).astype(np.float32) / 255
    return make


@pytest.fixture
def decoding():
    """Factory of a transform that decodes by a function of the data and of what the real one would do."""
    from featurepipe.backbones import Pixels

    def make(function):
        transform = Pixels().transform
        own = {"decode": lambda _, data, part=None: function(data, transform.decode)}
        return type("Decoding", (type(transform),), own)(**asdict(transform))

    return make


@pytest.fixture
def as_nobody():
    """Context in which permissions count, for root too; `path` may be read there, and the folders above it entered."""

    @contextmanager
    def make(path):
        if not hasattr(os, "geteuid") or os.geteuid():
            yield
            return
        modes = {place: place.stat().st_mode for place in (path, *path.parents)}
        for place, mode in modes.items():
            place.chmod(mode | (0o055 if place == path and place.is_dir() else 0o011 if place != path else 0))
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
            for place, mode in modes.items():
                place.chmod(mode)

    return make


@pytest.fixture
def limited_file_size():
    """Context in which a file that grows beyond so many bytes is refused, as by a disk that is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def make(most):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

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
def _no_packages():
    """Packages of weights are not seen, so that the default backbone is the same wherever tests run."""
    from featurepipe.backbones.packages import PACKAGES

    with pytest.MonkeyPatch.context() as patch:
        for package in PACKAGES.values():
            patch.setitem(sys.modules, package.module, None)
        yield


@pytest.fixture
def machine(monkeypatch):
    """Lets this machine have bf16 or not, which is what ``auto`` goes by."""

    def make(*, bf16):
        monkeypatch.setattr("featurepipe.backbones.precisions.has_bf16", lambda device: bf16)

    return make


@pytest.fixture(scope="session")
def small():
    """Factory of backbones for 32×32 images, with random weights; each with a module of its own."""
    import copy
    from dataclasses import replace

    from featurepipe import backbones

    made = {}

    def make(name="test_resnet", **arguments):
        key = name, tuple(sorted(arguments.items()))
        if key not in made:
            shape = {"img_size": 32} if name == "test_vit" else {}
            size = {"input_size": (3, 32, 32)}
            options = {"random_weights": True, "transform": size, "precision": "fp32", "device": "cpu"}
            made[key] = backbones.create(name, arguments={**shape, **arguments}, **options)
        return replace(made[key], module=copy.deepcopy(made[key].module))

    return make


@pytest.fixture(scope="session")
def tinted():
    """Factory of `Examples` of noisy 32×32 pictures, each class with a tint of its own."""
    from featurepipe.finetuning import Examples

    def make(count, classes=3, seed=0):
        rng, targets = np.random.default_rng(seed), np.arange(count) % classes
        tints = np.random.default_rng(99).integers(0, 120, (classes, 3))
        pixels = (rng.integers(0, 136, (count, 32, 32, 3)) + tints[targets][:, None, None]).astype(np.uint8)
        memory = InMemory({str(n): one for n, one in enumerate(pixels)})
        images = [Pending(memory.digest(place), memory, place) for place in memory.contents]
        return Examples(images, targets.astype(np.int64))

    return make
