"""Pictures of a bright block on a dark ground, with masks, and a store of their tokens."""

import numpy as np
from PIL import Image

import featurepipe
from featurepipe.listeners import SILENT

HOW = {"backbone": "test_resnet", "random_weights": True, "device": "cpu", "precision": "fp32", "listener": SILENT}
SHAPE = {"transform": {"input_size": (3, 64, 64), "crop_mode": "squash", "crop_pct": 1.0}}


def make_blocks(at, **shape):
    """Twenty pictures below a folder, their table, and the store of their tokens."""
    rows = ["path,mask,split"]
    for n in range(20):
        rng = np.random.default_rng(n)
        pixels, mask = rng.integers(0, 60, (64, 80, 3), np.uint8), np.zeros((64, 80), np.uint8)
        top, left = rng.integers(0, 32, 2)
        pixels[top : top + 32, left : left + 40] += 160
        mask[top : top + 32, left : left + 40] = 1
        mask[:2] = 255
        for name, what in (("images", pixels), ("masks", mask)):
            (at / name).mkdir(exist_ok=True)
            Image.fromarray(what).save(at / name / f"{n:02}.png")
        rows.append(f"images/{n:02}.png,masks/{n:02}.png,{'train' if n < 14 else 'test'}")
    (at / "t.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return at, featurepipe.extract(at / "t.csv", at / "s", tokens=True, **HOW, **(shape or SHAPE))["store"]
