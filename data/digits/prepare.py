"""Write scikit-learn's handwritten digits as PNG files in train/<class>/ and test/<class>/ folders.

The 1797 images are 8x8, greyscale, with values 0..16; they become 8-bit greyscale PNG files of 8x8 pixels. They are
split by order: the first 1197 images are train, the last 600 are test. The data are ordered by writer, so test writers
differ from train writers (but for one, whose digits lie across the boundary). Running the script again gives the same
bytes.

    python data/digits/prepare.py
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TRAIN_IMAGES = 1197
LARGEST_VALUE = 16


def png_bytes(image: np.ndarray) -> bytes:
    """Encode one 8x8 image with values 0..16 as an 8-bit greyscale PNG file."""
    pixels = np.rint(image * 255 / LARGEST_VALUE).astype(np.uint8)  # (8, 8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=False, compress_level=9)
    return buffer.getvalue()


def remove_stale(output: Path, keep: set[Path]) -> None:
    """Delete what an earlier run of this script left: only its own NNNN.png names, then folders left empty."""
    for split in ("train", "test"):
        for path in (output / split).glob("[0-9]/[0-9][0-9][0-9][0-9].png"):
            if path not in keep:
                path.unlink()
        for folder in (output / split).glob("[0-9]"):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def write_digits(output: Path) -> dict[str, int]:
    """Write every image below `output` and return the number of images per split."""
    digits = load_digits()
    counts = {"train": 0, "test": 0}
    written = set()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "train" if index < TRAIN_IMAGES else "test"
        path = output / split / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(image))
        written.add(path)
        counts[split] += 1
    remove_stale(output, keep=written)
    return counts


def main() -> None:
    """Read the command line, write the files and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="where train/ and test/ go (default: the folder of this script)",
    )
    args = parser.parse_args()
    for split, count in write_digits(args.output).items():
        print(f"{split}: {count} images")


if __name__ == "__main__":
    main()
