"""Make the small backbone that ships inside featurepipe: distilled from a large one, from photos and drawn letters.

Two teachers embed random views of every picture once. `featurepipe.pretrain` then trains a small network to say
the same of the same views, with 1 - cosine on a linear projection for each. One teacher knows photos. The other is
`bundled-1`, which was trained on the classes of letters: a teacher of photos alone says too little about strokes, and
what it taught was worse than raw pixels on digits with few labels. Pictures are

* photos: all of CIFAR-10's training images (train/<class>/), and any other folders of --photos, without their labels;
* letters: a-z and A-Z (never a digit), drawn from TrueType fonts in many sizes, turned, bright on dark or dark on
  bright: so that the network knows strokes at the size of tiny images.

Photos that are named here are no test of the result: judge it by data that it never saw, with evaluate.py.

    python data/bundled/pretrain.py --cifar CIFAR --fonts /usr/share/fonts/truetype \\
        --teacher mobilenetv2_100 --teacher-size 96 --epochs 25 --output backbone.safetensors
    python data/bundled/evaluate.py backbone.safetensors data/digits --shots 1 5 10

The fingerprint of `bundled` depends on these weights: see README.md before you replace the file in the package.
"""

from __future__ import annotations

import argparse
import csv
import json
import string
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file, save_file
from torch import Tensor

from featurepipe import backbones, pretrain
from featurepipe.backbones import BUNDLED, carried_card
from featurepipe.media import MEDIA
from featurepipe.pretraining import OBJECTIVES
from featurepipe.pretraining.objectives.distillation import Distill
from featurepipe.pretraining.objectives.pretext import Need
from featurepipe.pretraining.pictures import Pictures
from featurepipe.stages import Listener
from featurepipe.stores import Pending
from featurepipe.vocabulary import PretrainOptions

LARGEST = 2_000_000  # bytes of the file
CANVAS = 64  # pixels that letters are drawn in, before they are shrunk to one of these
SIDES = (8, 8, 12, 16, 32)
TURN = 15  # degrees to either side
STROKES = "bundled-1"  # which was trained on the classes of letters
SOURCE = "distilled from {teacher} and {strokes} by featurepipe.pretrain, from {what}; no labels"


class TwoTeachers(Distill):
    """Matches two teachers at once, each by its own cosine: the one that is named, and the one of strokes.

    References
    ----------
    Ranzinger et al. 2024, "AM-RADIO: Agglomerative Vision Foundation Model", which distills from several teachers.
    """

    def __init__(self, how: PretrainOptions, size: tuple[int, int], pictures: Pictures, extra: Any = None) -> None:
        super().__init__(how, size, pictures, np.concatenate(extra, axis=2))
        self._widths = [one.shape[2] for one in extra]

    @classmethod
    def extras(cls, need: Need, pending: Sequence[Pending], learned: np.ndarray) -> tuple[Any, np.ndarray]:
        """The embeddings of both teachers, float32 (n, K, D) each."""
        how = replace(need.how, teacher=STROKES, teacher_weights=None, teacher_size=None)
        first, learned = super().extras(need, pending, learned)
        second, _ = super().extras(replace(need, how=how, folder=need.folder / "strokes"), pending, learned)
        return (first, second), learned

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """The sum of both."""
        parts = zip(outputs.split(self._widths, 1), targets.split(self._widths, 1), strict=True)
        return sum((super(TwoTeachers, self).loss(*one)[0] for one in parts), outputs.new_zeros(())), float(
            len(targets)
        )


class Talk(Listener):
    """Notes to stderr."""

    def note(self, text: str) -> None:  # noqa: D102
        print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with train/<class>/")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="more folders of photos to learn from")
    parser.add_argument("--fonts", type=Path, nargs="*", default=[], help="folders searched for .ttf files")
    parser.add_argument("--letters", type=int, default=20_000, help="letters to draw, where there are fonts")
    parser.add_argument("--teacher", default="mobilenetv2_100")
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--teacher-size", type=int, help="height and width of the teacher's input; its own by default")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--architecture", default="test_resnet", help="timm model name")
    parser.add_argument("--arguments", type=json.loads, default={"channels": [32, 48, 88, 160]}, help="JSON, for timm")
    parser.add_argument("--size", type=int, default=48, help="input size in pixels")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--options", type=json.loads, default={}, help="JSON: more keywords of featurepipe.pretrain")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def draw_letters(fonts: list[Path], count: int, seed: int, folder: Path) -> list[Path]:
    """Draw letters as PNG files, each in another font, size, turn and brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    loaded = [ImageFont.truetype(str(path), 44) for path in fonts]
    made = []
    for number in range(count):
        font, letter = loaded[rng.integers(len(loaded))], string.ascii_letters[rng.integers(52)]
        canvas = Image.new("L", (CANVAS, CANVAS))
        ImageDraw.Draw(canvas).text((CANVAS // 2, CANVAS // 2), letter, fill=255, font=font, anchor="mm")
        canvas = canvas.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
        side = SIDES[rng.integers(len(SIDES))]
        ink = np.asarray(canvas.resize((side, side), Image.Resampling.BOX)) / 255  # 1 on the stroke
        ground, stroke = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
        shade = ground + (stroke - ground) * ink
        shade = 1 - shade if rng.random() < 0.35 else shade
        path = folder / f"{number:05d}.png"
        Image.fromarray((255 * shade).round().astype(np.uint8)).save(path)
        made.append(path)
    return made


def list_pictures(options: argparse.Namespace, folder: Path) -> Path:
    """A table of all pictures, without labels."""
    fonts = [path for place in options.fonts for path in sorted(place.rglob("*.ttf")) if "Math" not in path.name]
    pictures = draw_letters(fonts, options.letters, options.seed, folder / "letters") if fonts else []
    for place in (options.cifar / "train", *options.photos):
        pictures += [path for path in sorted(place.rglob("*")) if path.suffix.lower() in MEDIA["image"].suffixes]
    table = folder / "pictures.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path"])
        writer.writerows([path.resolve()] for path in pictures)
    print(f"{len(pictures)} pictures, {len(fonts)} fonts", file=sys.stderr)
    return table


def describe(options: argparse.Namespace) -> str:
    """What the weights were made from."""
    what = ["CIFAR-10", *(f"the photos of {place.name}" for place in options.photos)]
    if options.fonts:
        what.append(f"letters drawn from the fonts of {', '.join(place.name for place in options.fonts)}")
    return SOURCE.format(teacher=options.teacher, strokes=STROKES, what=" and ".join(what))


def rename(path: Path, source: str) -> None:
    """Call the network ``bundled``, say what it was made from, and leave out paths of this machine.

    Numbers are kept in half precision, so that twice as many fit; the network computes in float32 as ever.
    """
    header: dict[str, Any] = carried_card(path) or {}
    card = header["pretraining"]
    card["options"] = {key: value for key, value in card["options"].items() if key != "teacher_weights"}
    header |= {"name": BUNDLED, "licence": "Apache-2.0", "source": source, "weights-sha256": None}
    numbers = load_file(path).items()
    half = {name: one.astype(np.float16) if one.dtype.kind == "f" else one for name, one in numbers}
    save_file(half, path, metadata={"featurepipe": json.dumps(header)})
    header["weights-sha256"] = backbones.create(BUNDLED, weights=path).spec["weights"]  # of the rounded numbers
    save_file(half, path, metadata={"featurepipe": json.dumps(header)})


def main() -> None:
    """Gather pictures, distill, and check the size."""
    options = parse()
    work = options.output.with_suffix(".pictures")
    work.mkdir(parents=True, exist_ok=True)
    table = list_pictures(options, work)
    OBJECTIVES["distill"] = TwoTeachers
    pretrain(
        table,
        options.output,
        objective="distill",
        backbone=options.architecture,
        arguments=options.arguments,
        input_size=(3, options.size, options.size),
        teacher=options.teacher,
        teacher_weights=options.teacher_weights,
        teacher_size=options.teacher_size,
        views=options.views,
        epochs=options.epochs,
        minutes=options.minutes,
        batch_size=options.batch_size,
        device=options.device,
        seed=options.seed,
        resume=options.resume,
        licence="Apache-2.0",
        listener=Talk(),
        **options.options,
    )
    rename(options.output, describe(options))
    size = options.output.stat().st_size
    print(f"{options.output}: {size:,} bytes")
    if size > LARGEST:
        sys.exit(f"{options.output} is larger than {LARGEST:,} bytes; choose a smaller --architecture or --arguments")


if __name__ == "__main__":
    main()
