"""Development data of very different kinds, written as folders of small PNG files (train/CLASS and test/CLASS).

    python benchmarks/sets.py OUT --from DATASETS

Digits, shapes and textures are made from nothing but scikit-learn and NumPy. The others are cut from data sets in the
folder DATASETS, as far as it holds them: cifar10.tar.gz, flowers12/, hymenoptera/, horses/ (photos with masks),
em_membrane/ (electron microscopy with masks) and spoken_digits/ (wav files, drawn as spectrograms).
"""

from __future__ import annotations

import argparse
import tarfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Pictures = Iterator[tuple[str, str, Image.Image]]  # split, class, picture
SIDE = 96  # pixels, where the picture is made or cut here


def digits() -> Pictures:
    """Handwritten digits, scikit-learn's; the last 600 are by other writers."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for n, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
        split = "train" if n < len(found.target) - 600 else "test"
        yield split, str(label), Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32), Image.NEAREST)


def shapes() -> Pictures:
    """Circle, square, triangle and star, each filled or as an outline, in any colours, on noise."""
    rng = np.random.default_rng(0)
    for n in range(2200):
        label = n % 8
        noise = rng.normal(rng.uniform(60, 200, 3), rng.uniform(10, 50), (SIDE, SIDE, 3))
        picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        radius, angle = rng.uniform(8, 28), rng.uniform(0, 2 * np.pi)
        centre = rng.uniform(radius, SIDE - radius, 2)
        corners, inner = ((60, 1.0), (4, 1.0), (3, 1.0), (10, 0.45))[label % 4]
        radii = radius * np.where(np.arange(corners) % 2, inner, 1.0)
        turn = angle + 2 * np.pi * np.arange(corners) / corners
        points = [tuple(p) for p in centre + radii[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)]
        colour = tuple(int(c) for c in rng.uniform(0, 255, 3))
        how = {"fill": colour} if label < 4 else {"outline": colour, "width": int(rng.integers(2, 4))}
        ImageDraw.Draw(picture).polygon(points, **how)
        yield (
            "train" if n < 1200 else "test",
            f"{('circle', 'square', 'triangle', 'star')[label % 4]}{label // 4}",
            picture,
        )


def textures() -> Pictures:
    """Random fields of six spectra: three slopes, each the same in all directions or drawn out in a random one."""
    rng = np.random.default_rng(0)
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    for n in range(1800):
        label = n % 6
        angle = rng.uniform(0, np.pi)
        along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
        stretch = 1.0 if label < 3 else rng.uniform(1.6, 2.4)
        radius = np.sqrt((along * stretch) ** 2 + (across / stretch) ** 2)
        radius[0, 0] = 1
        amplitude = radius ** -((1.0, 1.35, 1.7)[label % 3] + rng.normal(0, 0.08))
        field = np.fft.ifft2(amplitude * np.exp(2j * np.pi * rng.random((SIDE, SIDE)))).real
        field = 128 + rng.uniform(25, 50) * (field - field.mean()) / field.std()
        tint = rng.uniform(0.6, 1.0, 3)
        yield (
            "train" if n < 800 else "test",
            f"texture{label}",
            Image.fromarray((field[..., None] * tint).clip(0, 255).astype(np.uint8)),
        )


def cifar(root: Path) -> Pictures:
    """The first 300 training and 150 test images of each class."""
    taken: dict[tuple[str, str], int] = {}
    with tarfile.open(root / "cifar10.tar.gz") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3 or parts[-3] not in ("train", "test"):
                continue
            split, label = parts[-3], parts[-2]
            taken[split, label] = taken.get((split, label), 0) + 1
            if taken[split, label] <= (300 if split == "train" else 150):
                yield split, label, Image.open(archive.extractfile(member)).convert("RGB")


def photos(root: Path, name: str) -> Pictures:
    """A data set of photos, no side longer than 256 pixels."""
    for path in sorted((root / name).glob("*/*/*")):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((256, 256))
        yield {"val": "test"}.get(path.parts[-3], path.parts[-3]), path.parts[-2], picture


def masked(
    pictures: list[Path],
    masks: list[Path],
    split: str,
    side: int,
    tries: int,
    names: tuple[str, ...],
    cuts: tuple[float, ...],
) -> Pictures:
    """Squares of pictures, by the share of each that its mask covers: below, between and above `cuts`."""
    rng = np.random.default_rng(0)
    for path, mask in zip(pictures, masks, strict=True):
        picture, covered = Image.open(path).convert("RGB"), np.asarray(Image.open(mask).convert("L")) > 0
        width, height = picture.size
        for _ in range(tries):
            size = min(side, width, height)
            left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
            share = covered[top : top + size, left : left + size].mean()
            if 0.05 < share < 0.25 and len(names) == 2:
                continue  # neither
            yield split, names[int(np.searchsorted(cuts, share))], picture.crop((left, top, left + size, top + size))


def horses(root: Path) -> Pictures:
    """Squares of photos that show a piece of a horse, or none."""
    for split in ("train", "test"):
        pictures, masks = (sorted((root / "horses" / split / name).iterdir()) for name in ("images", "masks"))
        yield from masked(pictures, masks, split, 96, 10, ("other", "horse"), (0.15,))


def membranes(root: Path) -> Pictures:
    """Squares of micrographs with little, some and much membrane."""
    pictures, masks = (sorted((root / "em_membrane" / name).iterdir()) for name in ("images", "masks"))
    for split, some in (("train", slice(20)), ("test", slice(20, None))):
        yield from masked(pictures[some], masks[some], split, 64, 40, ("little", "some", "much"), (0.17, 0.24))


def sounds(root: Path) -> Pictures:
    """Spoken digits as pictures of their spectrograms."""
    for path in sorted((root / "spoken_digits").rglob("*.wav")):
        with wave.open(str(path)) as file:
            signal = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, (0, max(0, 256 - len(signal)))), 256)[::64]
        power = np.log(np.abs(np.fft.rfft(frames * np.hanning(256))).T[::-1] + 1e-3)
        scaled = (255 * (power - power.min()) / np.ptp(power)).astype(np.uint8)
        label, _, index = path.stem.split("_")
        yield "test" if int(index) < 5 else "train", label, Image.fromarray(scaled).resize((SIDE, SIDE))


MADE = {"digits": digits, "shapes": shapes, "textures": textures}
CUT = {
    "cifar": ("cifar10.tar.gz", cifar),
    "flowers": ("flowers12", lambda root: photos(root, "flowers12")),
    "insects": ("hymenoptera", lambda root: photos(root, "hymenoptera")),
    "horses": ("horses", horses),
    "membranes": ("em_membrane", membranes),
    "sounds": ("spoken_digits", sounds),
}


def write(pictures: Pictures, folder: Path) -> None:
    """Write pictures, each under a number, into the folder of its split and class."""
    for n, (split, label, picture) in enumerate(pictures):
        place = folder / split / label
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{n:05d}.png", compress_level=1)


def main() -> None:
    """Write all sets that can be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="root", type=Path, metavar="DATASETS")
    options = parser.parse_args()
    for name, make in MADE.items():
        write(make(), options.out / name)
    for name, (needs, make) in CUT.items():
        if options.root is not None and (options.root / needs).exists():
            write(make(options.root), options.out / name)
    for folder in sorted(options.out.iterdir()):
        print(folder.name, {split.name: len(list(split.glob("*/*"))) for split in sorted(folder.iterdir())})


if __name__ == "__main__":
    main()
