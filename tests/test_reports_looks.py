"""How samples of each medium are shown, and how many of them."""

import base64
import io

import numpy as np
import pytest
from films import LOSSLESS, film
from PIL import Image

from featurepipe.errors import DependencyMissing, SampleError
from featurepipe.media import MEDIA
from featurepipe.reports.looks import LOOKS, Look, Way, show
from featurepipe.sources import InMemory
from featurepipe.stores import Pending


def opened(look):
    return Image.open(io.BytesIO(base64.b64decode(look.picture)))


def encoded(pixels, suffix="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


def pending(contents):
    memory = InMemory(contents)
    return {name: Pending(memory.digest(name), memory, name) for name in contents}


def test_every_medium_has_a_way():
    assert set(LOOKS) == set(MEDIA)


def test_an_image_keeps_its_shape_and_its_colour():
    pixels = np.zeros((60, 200, 3), np.uint8)
    pixels[:, :100] = (250, 10, 10)
    found = opened(LOOKS["image"].look(encoded(pixels), None))
    assert max(found.size) == 96
    assert abs(found.height / found.width - 60 / 200) < 0.03
    assert np.asarray(found)[10, 10].tolist() == pytest.approx([250, 10, 10], abs=12)
    box = opened(LOOKS["image"].look(encoded(pixels), "100,0,160,60"))
    assert box.size == (96, 96)
    assert np.asarray(box).mean() < 12
    dark = np.zeros((30, 30, 3), np.uint8)
    dark[10:20, 10:20] = 200
    assert opened(LOOKS["image"].look(encoded(dark), None)).size == (96, 96)  # black around it is of the image
    grey = opened(LOOKS["image"].look(encoded(np.full((30, 30, 3), 128, np.uint8)), None))
    assert grey.size == (96, 96)  # it is no border


def test_a_text_is_shown_by_its_beginning():
    assert LOOKS["text"].look(b"One  line\nand another <b>", None).words == "One line and another <b>"
    long = LOOKS["text"].look(b"word " * 500, None).words
    assert len(long) < 300
    assert long.endswith("word…")


def test_a_sound_is_seen_and_heard():
    soundfile = pytest.importorskip("soundfile")
    times = np.arange(24_000) / 8000
    signal = np.where(times < 1.5, 0.0, 0.3) * np.sin(2 * np.pi * 440 * times)  # silence, then a tone
    file = io.BytesIO()
    soundfile.write(file, signal, 8000, format="WAV")
    look = LOOKS["sound"].look(file.getvalue(), None)
    picture = np.asarray(opened(look)).astype(int)  # (96, 192, 3)
    assert picture.shape == (96, 192, 3)
    assert picture[24:, 120:].sum() > 3 * picture[24:, :80].sum()
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(look.sound)))
    assert (len(heard) / rate, rate) == (pytest.approx(3, abs=0.2), 16_000)
    assert np.abs(heard[: rate // 2]).max() < 0.05 < np.abs(heard[-rate // 2 : -2000]).max()
    part = LOOKS["sound"].look(file.getvalue(), "0.0-1.0")
    assert len(part.sound) < len(look.sound)
    assert LOOKS["sound"].look(file.getvalue(), None) == look  # to the byte


def test_a_video_is_a_strip_of_its_frames():
    pytest.importorskip("av")
    made = film([np.full((48, 48, 3), shade, np.uint8) for shade in (20, 90, 160, 230) for _ in range(5)], **LOSSLESS)
    strip = np.asarray(opened(LOOKS["video"].look(made, None))).astype(float)
    assert strip.shape == (72, 4 * 72, 3)
    shades = [strip[:, 72 * n + 10 : 72 * n + 62].mean() for n in range(4)]
    assert shades == pytest.approx([20, 90, 160, 230], abs=12)
    part = np.asarray(opened(LOOKS["video"].look(made, "1.0-1.5"))).astype(float)
    assert part.mean() == pytest.approx(160, abs=12)


def test_looks_end_with_the_budget_and_leave_out_what_cannot_be_read():
    rng = np.random.default_rng(0)
    contents = {f"{n}": encoded(rng.integers(0, 256, (40, 40, 3), np.uint8)) for n in range(6)}
    held = pending(contents)
    held["gone"] = Pending("00" * 32, InMemory({}), "gone")
    held["broken"] = pending({"broken": b"no picture"})["broken"]
    every = show({"gone": held.pop("gone"), "broken": held.pop("broken"), **held}, LOOKS["image"])
    assert list(every) == list(contents)
    sizes = [look.size for look in every.values()]
    assert list(show(held, LOOKS["image"], sum(sizes[:3]))) == ["0", "1", "2"]
    assert list(show(held, LOOKS["image"], sum(sizes[:3]) - 1)) == ["0", "1"]
    assert list(show(held, Way(LOOKS["image"].look, 4))) == ["0", "1", "2", "3"]


def test_a_package_that_is_missing_is_told():
    def look(data, part):
        raise DependencyMissing("sounds need soundfile")

    with pytest.raises(DependencyMissing, match="soundfile"):
        show(pending({"a": b"x"}), Way(look, 3))

    def broken(data, part):
        raise SampleError("no")

    assert show(pending({"a": b"x"}), Way(broken, 3)) == {}
    assert Look(words="naïve").size == 6
