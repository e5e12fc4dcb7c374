"""How many planted faults `featurepipe audit` finds, and how much it says of the data before anything was planted.

    python benchmarks/audit.py flowers12/ --strangers imagenet_sample200/ --out /tmp/audit \
        --backbone vit_tiny_patch16_224 --weights vit_tiny_patch16_224.safetensors

The data have train/ and test/ above class folders. A copy of them gets, all in images of their own: exact copies;
copies that are encoded again or cropped; copies of training images in test; copies under another label; labels that
are wrong; photos of something else; and all images of one class a mark in a corner. What was planted is kept in
planted.json. Then both are embedded and audited.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COPIES, NEAR, LEAKED, TWICE, STRANGERS, FLIPPED = 20, 20, 10, 10, 5, 0.05
MARK = "© studio"


class Folder:
    """A copy of the data in which no image gets two faults."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.rng = root, np.random.default_rng(seed)
        found = sorted(path.relative_to(root) for path in root.glob("*/*/*") if path.is_file())
        self._left = [found[n] for n in self.rng.permutation(len(found))]
        self.size = len(found)
        self.classes = sorted({path.parts[1] for path in found})

    def draw(self, count: int, split: str | None = None) -> list[Path]:
        """Images that have no fault yet."""
        drawn = [path for path in self._left if split in (None, path.parts[0])][:count]
        self._left = [path for path in self._left if path not in set(drawn)]
        return drawn

    def other(self, label: str) -> str:
        """Another class."""
        return str(self.rng.choice([name for name in self.classes if name != label]))

    def name(self, split: str, label: str, suffix: str) -> Path:
        """A name that nothing has yet and that looks like the others."""
        while True:
            path = Path(split, label, f"image_{self.rng.integers(10_000):04}{suffix}")
            if not (self.root / path).exists():
                return path

    def copy(self, path: Path, *, split: str | None = None, label: str | None = None) -> list[str]:
        """Copy an image; the names of both."""
        to = self.name(split or path.parts[0], label or path.parts[1], path.suffix)
        shutil.copy(self.root / path, self.root / to)
        return [path.as_posix(), to.as_posix()]


def plant(data: Path, strangers: Path, out: Path, seed: int) -> dict[str, Any]:
    """A copy of the data with faults; what they are."""
    shutil.copytree(data, out)
    folder = Folder(out, seed)
    marked = folder.classes[int(folder.rng.integers(len(folder.classes)))]
    for path in sorted(out.glob(f"*/{marked}/*")):
        mark(path)
    planted: dict[str, Any] = {"watermark": marked}
    planted["exact"] = [folder.copy(path) for path in folder.draw(COPIES)]
    planted["near"] = [again(folder, path, n) for n, path in enumerate(folder.draw(NEAR))]
    planted["leaked"] = [folder.copy(path, split="test") for path in folder.draw(LEAKED, "train")]
    planted["two labels"] = [folder.copy(path, label=folder.other(path.parts[1])) for path in folder.draw(TWICE)]
    planted["was"] = dict(flip(folder, path) for path in folder.draw(round(FLIPPED * folder.size)))
    planted["flipped"] = list(planted["was"])
    photos = [path for path in sorted(strangers.iterdir()) if path.name.startswith(("n03", "n04"))]  # things
    planted["off-topic"] = []
    for n in folder.rng.permutation(len(photos))[:STRANGERS]:
        to = folder.name("train", folder.other(""), ".jpg")
        square(Image.open(photos[n]).convert("RGB")).save(out / to, quality=95)
        planted["off-topic"].append(to.as_posix())
    return planted


def mark(path: Path) -> None:
    """Write a mark into the lower right corner."""
    image = Image.open(path).convert("RGB")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), MARK)
    at = image.width - (right - left) - 6, image.height - (bottom - top) - 6
    draw.rectangle((at[0] - 2, at[1] - 1, image.width - 2, image.height - 2), fill=(255, 255, 255))
    draw.text((at[0], at[1] - top), MARK, fill=(40, 40, 40))
    image.save(path, quality=95)


def again(folder: Folder, path: Path, number: int) -> list[str]:
    """A copy that is encoded again, smaller, or cropped by a tenth on each side; the names of both."""
    image = Image.open(folder.root / path).convert("RGB")
    if number % 2:
        image = image.resize((round(0.8 * image.width), round(0.8 * image.height)))
    else:
        x, y = image.width // 10, image.height // 10
        image = image.crop((x, y, image.width - x, image.height - y))
    to = folder.name(*path.parts[:2], ".jpg")
    image.save(folder.root / to, quality=70)
    return [path.as_posix(), to.as_posix()]


def flip(folder: Folder, path: Path) -> tuple[str, str]:
    """Move an image to another class; its new name and its old one."""
    to = folder.name(path.parts[0], folder.other(path.parts[1]), path.suffix)
    (folder.root / path).rename(folder.root / to)
    return to.as_posix(), path.as_posix()


def square(image: Image.Image, side: int = 224) -> Image.Image:
    """The middle of a photo, as large as the others."""
    short = min(image.size)
    x, y = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((x, y, x + short, y + short)).resize((side, side), Image.Resampling.BICUBIC)


def found(result: dict[str, Any], *checks: str) -> list[set[str]]:
    """The samples of each finding, the surest first."""
    chosen = [one for one in result["findings"] if one["check"] in checks]
    return [{sample["id"] for sample in one["samples"]} for one in chosen]


def judge(result: dict[str, Any], planted: dict[str, Any], natural: Sequence[set[str]]) -> Iterator[str]:
    """What was found of each fault; `natural` copies were there before."""
    exact, near = found(result, "exact-copies"), found(result, "near-copies")
    before = [{planted["was"].get(name, name) for name in one} for one in near]
    for kind in ("exact", "leaked", "two labels"):
        hit = sum(any(set(pair) <= one for one in exact) for pair in planted[kind])
        yield f"{kind} copies: {hit} of {len(planted[kind])} found"
    pairs = [set(pair) for pair in planted["near"]]
    yield f"near copies: {sum(any(pair <= one for one in near) for pair in pairs)} of {len(pairs)} found"
    old = [any(len(one & other) > 1 for other in natural) for one in before]
    false = [
        sorted(one) for one, is_old in zip(near, old, strict=True) if not is_old and not any(p <= one for p in pairs)
    ]
    yield f"near copies: {len(near)} findings, {sum(old)} of them of copies that were there before, others: {false}"
    truths = {"labels": planted["flipped"], "outliers": planted["off-topic"]}
    doubtful = {name for pair in planted["two labels"] for name in pair}
    for check, names in truths.items():
        ranked = found(result, check)
        hits = [bool(one & set(names)) for one in ranked]
        fair = [hit or bool(one & doubtful) for hit, one in zip(hits, ranked, strict=True)]
        budget = len(names)
        yield (
            f"{check}: {len(ranked)} findings, {sum(hits)} of {budget} planted found; among the first {budget}: "
            f"{sum(hits[:budget])} planted, {sum(fair[:budget])} planted or copies with two labels"
        )
    yield f"the watermark is on {planted['watermark']}; shortcuts found:"
    yield from (f"  {one['reason']}" for one in result["findings"] if one["check"] == "shortcuts")


def main() -> None:
    """Plant, embed, audit and judge."""
    from featurepipe import audit, extract

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--strangers", type=Path, required=True, help="a folder of photos of something else")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--backbone", default="bundled")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    planted = plant(given.data, given.strangers, given.out / "planted", given.seed)
    (given.out / "planted.json").write_text(json.dumps(planted, indent=1))
    results = {}
    for name, data in {"clean": given.data, "planted": given.out / "planted"}.items():
        store = extract(data, given.out / f"{name}.store", backbone=given.backbone, weights=given.weights)["store"]
        results[name] = audit(store, given.out / f"{name}.html", fix=given.out / f"{name}.csv", seed=given.seed)
        print(f"{name}: {'; '.join(results[name]['summary'])}")
        print(f"  {results[name]['leak']}, {results[name]['seconds']:.0f} s")
    for line in judge(results["planted"], planted, found(results["clean"], "near-copies", "exact-copies")):
        print(line)


if __name__ == "__main__":
    main()
