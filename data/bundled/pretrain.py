"""Train the small backbone that ships inside featurepipe, from photos and rendered letters.

One timm architecture learns to classify two sources at once, through one head each:

* photos: the ten classes of CIFAR-10, read from train/<class>/*.jpg|png and test/<class>/*.jpg|png;
* letters: a-z and A-Z (never a digit) drawn from TrueType fonts, warped anew at every step, and shrunk to as little as
  8x8 pixels before being enlarged to the input size, so that the backbone knows strokes at the size of tiny images.

A third, linear head repeats each photo's 3x3 thumbnail from its embedding, meant to keep colour and layout in there:
ten classes of photos alone give the network little reason to. The heads are thrown away; what is written
is the backbone's state dict, with the architecture and the transform it was trained under in the safetensors header.

    python data/bundled/pretrain.py --cifar CIFAR --fonts /usr/share/fonts/truetype --output backbone.safetensors
"""

import argparse
import json
import string
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

MEAN = STD = (0.5, 0.5, 0.5)
PHOTO_SIZE = 32  # CIFAR-10's own size
CANVAS = 64  # letters are warped at this size
LETTER_SIZES = (8, 8, 8, 12, 16, 32)  # then shrunk to one of these: half of them to 8x8
SAME_IN_BOTH_CASES = set("ckopsuvwxyz")  # alike once scaled to fill the box, so the two cases are one class
HEAD_WIDTH = 256
THUMBNAIL, THUMBNAIL_WEIGHT = 3, 3.0
HELD_OUT_FONT = 8  # every eighth font file only measures, never trains
SOURCE = "CIFAR-10 photos (labels and thumbnails) and letters a-z, A-Z drawn from the fonts {fonts}; from scratch"

Labelled = tuple[Tensor, Tensor]  # images or glyph distances, and their class numbers


def letter_classes() -> dict[str, int]:
    """Map each letter to its class number; letters that cannot be told apart share one."""
    names = {c: c.lower() if c.lower() in SAME_IN_BOTH_CASES else c for c in string.ascii_letters}
    names["I"] = "l"  # both are a plain bar in most sans-serif fonts
    numbers = {name: number for number, name in enumerate(sorted(set(names.values())))}
    return {c: numbers[name] for c, name in names.items()}


def glyph_distances(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """Draw a letter filling the canvas; return each pixel's signed distance to its outline (inside positive)."""
    left, top, right, bottom = font.getbbox(letter)
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), letter, fill=255, font=font)
    scale = 0.8 * CANVAS / max(glyph.size)
    glyph = glyph.resize([max(1, round(side * scale)) for side in glyph.size], Image.Resampling.BILINEAR)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(glyph, ((CANVAS - glyph.width) // 2, (CANVAS - glyph.height) // 2))
    inside = np.asarray(canvas) > 127  # (CANVAS, CANVAS)
    return (distance_transform_edt(inside) - distance_transform_edt(~inside)).astype(np.float32)


def load_glyphs(font_files: list[Path]) -> Labelled:
    """Return the distances (G, 1, CANVAS, CANVAS) and the classes (G,) of every letter of every font."""
    classes = letter_classes()
    distances, labels = [], []
    for path in font_files:
        font = ImageFont.truetype(str(path), 96)
        distances += [glyph_distances(font, letter) for letter in classes]
        labels += classes.values()
    return torch.from_numpy(np.stack(distances))[:, None], torch.tensor(labels)


def load_photos(folder: Path) -> Labelled:
    """Read <class>/*.jpg|png below `folder` into uint8 images (N, 3, 32, 32) and class numbers (N,)."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, names.index(path.parent.name)) for path in sorted(folder.glob("*/*")) if path.suffix in (".jpg", ".png")
    ]

    def read(item: tuple[Path, int]) -> np.ndarray:
        return np.asarray(Image.open(item[0]).convert("RGB").resize((PHOTO_SIZE, PHOTO_SIZE)))

    with ThreadPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(read, files)))  # (N, 32, 32, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files])


def uniform(count: int, low: float, high: float) -> Tensor:
    """Return `count` uniform random numbers as (count, 1, 1, 1), to scale a batch of images."""
    return torch.empty(count, 1, 1, 1).uniform_(low, high)


def augment_photos(images: Tensor, size: int) -> Tensor:
    """Random zoom, flip and colour jitter: uint8 (B, 3, 32, 32) -> 0..1 (B, 3, size, size).

    Zooming out (mirrored at the border) shows photos at their own sharpness, as shrunk large photos have it. The jitter
    is mild, because an embedding trained to ignore colour is of little use where colour tells classes apart.
    """
    count = len(images)
    area, ratio = uniform(count, 0.5, 2.25), uniform(count, -0.3, 0.3).exp()
    zoom = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).view(count, 2)
    shift = (1 - zoom) * torch.empty(count, 2).uniform_(-1, 1)
    flip = torch.randint(0, 2, (count,)) * 2 - 1
    theta = torch.zeros(count, 2, 3)  # output -> input coordinates
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom[:, 0] * flip, zoom[:, 1], shift
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    x = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    x = x * uniform(count, 0.8, 1.2)
    grey = x.mean(1, keepdim=True)  # (B, 1, size, size)
    x = grey + (x - grey) * uniform(count, 0.8, 1.2)
    middle = grey.mean((2, 3), keepdim=True)  # (B, 1, 1, 1)
    return (middle + (x - middle) * uniform(count, 0.8, 1.2)).clamp(0, 1)


def warp_grid(count: int) -> Tensor:
    """Random affine maps plus a smooth elastic field, as a sampling grid (B, CANVAS, CANVAS, 2)."""
    angle, shear = uniform(count, -0.25, 0.25).view(-1), uniform(count, -0.35, 0.35).view(-1)
    width, height = uniform(count, 0.7, 1.2).view(-1), uniform(count, 0.8, 1.2).view(-1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() / width, (shear - angle.sin()) / width
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() / height, angle.cos() / height
    theta[:, :, 2] = torch.empty(count, 2).uniform_(-0.12, 0.12)
    elastic = torch.randn(count, 2, 4, 4) * uniform(count, 0, 0.12)
    elastic = F.interpolate(elastic, (CANVAS, CANVAS), mode="bicubic", align_corners=True)
    return F.affine_grid(theta, [count, 1, CANVAS, CANVAS], align_corners=False) + elastic.permute(0, 2, 3, 1)


def draw_letters(distances: Tensor, size: int) -> Tensor:
    """Warp, stroke, shrink and colour letters: distances (B, 1, CANVAS, CANVAS) -> 0..1 (B, 3, size, size)."""
    count = len(distances)
    half_width = distances.amax((1, 2, 3), keepdim=True)
    warped = F.grid_sample(distances, warp_grid(count), padding_mode="border", align_corners=False)
    # Moving the outline along the distance field sets the stroke width; the limit keeps thin strokes from vanishing.
    grow = torch.maximum(uniform(count, 2, 6) - half_width, -0.4 * half_width)
    ink = ((warped + grow) / uniform(count, 1, 4) + 0.5).clamp(0, 1)  # (B, 1, CANVAS, CANVAS), 1 on the stroke
    parts = [
        F.interpolate(F.interpolate(part, (s, s), mode="area"), (size, size), mode="bilinear")
        for part, s in zip(ink.tensor_split(len(LETTER_SIZES)), LETTER_SIZES, strict=True)
    ]
    ink = torch.cat(parts)  # (B, 1, size, size)
    coloured = uniform(count, 0, 1) < 0.3
    stroke = torch.where(coloured, torch.rand(count, 3, 1, 1), uniform(count, 0.7, 1))
    ground = torch.where(coloured, torch.rand(count, 3, 1, 1), uniform(count, -0.2, 0.2).clamp(min=0))
    x = ground + (stroke - ground) * ink  # (B, 3, size, size)
    x = torch.where(uniform(count, 0, 1) < 0.35, 1 - x, x)  # both polarities
    return (x + torch.randn_like(x[:, :1]) * uniform(count, 0, 0.06)).clamp(0, 1)


def normalise(x: Tensor) -> Tensor:
    """Apply the stored transform's mean and standard deviation to 0..1 images."""
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return x.to(memory_format=torch.channels_last)


def make_head(width: int, classes: int) -> nn.Module:
    """Return a small perceptron: it absorbs the collapse towards the training classes; the embedding keeps more."""
    return nn.Sequential(
        nn.Linear(width, HEAD_WIDTH), nn.BatchNorm1d(HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, classes)
    )


class Pretraining(nn.Module):
    """A timm backbone with one classifier per source, and a linear map to thumbnails."""

    def __init__(self, backbone: nn.Module, letters: int, photos: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.letters = make_head(backbone.num_features, letters)
        self.photos = make_head(backbone.num_features, photos)
        self.thumbnails = nn.Linear(backbone.num_features, 3 * THUMBNAIL**2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, width)."""
        return self.backbone.forward_head(self.backbone.forward_features(x), pre_logits=True)


@torch.inference_mode()
def accuracy(model: Pretraining, head: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of 0..1 images that one head classifies correctly, in percent."""
    model.eval()
    right = sum(
        (head(model(normalise(x))).argmax(1) == y).sum().item()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return 100 * right / len(labels)


def train(model: Pretraining, photos: Labelled, glyphs: Labelled, args: argparse.Namespace) -> None:
    """Train both heads and the backbone on mixed batches; one epoch is one pass over the photos."""
    steps = len(photos[0]) // args.photos
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        momentum=0.9,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, args.epochs * steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss()
    started = time.perf_counter()
    for epoch in range(args.epochs):
        model.train()
        total = torch.zeros(3)
        for chosen in torch.randperm(len(photos[0])).split(args.photos)[:steps]:
            drawn = torch.randint(len(glyphs[0]), (args.letters,))
            # One batch for both sources, so that BatchNorm's statistics are those of the mixture used afterwards.
            x = torch.cat([augment_photos(photos[0][chosen], args.size), draw_letters(glyphs[0][drawn], args.size)])
            x = normalise(x)  # (photos + letters, 3, size, size)
            thumbnails = F.adaptive_avg_pool2d(x[: args.photos], THUMBNAIL).flatten(1)  # (photos, 3 * THUMBNAIL**2)
            with torch.autocast("cpu", torch.bfloat16):
                z = model(x)  # (photos + letters, width)
                photo_loss = loss_of(model.photos(z[: args.photos]).float(), photos[1][chosen])
                letter_loss = loss_of(model.letters(z[args.photos :]).float(), glyphs[1][drawn])
                thumbnail_loss = F.mse_loss(model.thumbnails(z[: args.photos]).float(), thumbnails)
            optimiser.zero_grad()
            (photo_loss + letter_loss + THUMBNAIL_WEIGHT * thumbnail_loss).backward()
            optimiser.step()
            schedule.step()
            total += torch.stack([photo_loss, letter_loss, thumbnail_loss]).detach()
        photo, letter, thumbnail = (total / steps).tolist()
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss photos {photo:.3f}, letters {letter:.3f}, "
            f"thumbnails {thumbnail:.3f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )


def save(backbone: nn.Module, args: argparse.Namespace, families: list[str]) -> None:
    """Write the state dict with the header that featurepipe reads."""
    header = {
        "encoding-type": "featurepipe-backbone",
        "encoding-version": "1.0",
        "name": "bundled",
        "architecture": args.architecture,
        "arguments": args.arguments,
        "transform": {
            "input_size": [3, args.size, args.size],
            "interpolation": "bilinear",
            "mean": list(MEAN),
            "std": list(STD),
            "crop_pct": 1.0,
            "crop_mode": "center",
        },
        "licence": "Apache-2.0",
        "source": SOURCE.format(fonts=", ".join(families)),
    }
    state = {name: value.contiguous() for name, value in backbone.state_dict().items()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.output, metadata={"featurepipe": json.dumps(header)})


def main() -> None:
    """Read the command line, train, measure on held-out data and write the backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--fonts", type=Path, nargs="+", required=True, help="folders searched for .ttf files")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--architecture", default="test_resnet", help="timm model name")
    parser.add_argument(
        "--arguments",
        type=json.loads,
        default={"channels": [32, 48, 48, 112]},
        help="JSON arguments of timm.create_model",
    )
    parser.add_argument("--size", type=int, default=48, help="input size in pixels")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the photos")
    parser.add_argument("--photos", type=int, default=128, help="photos in a batch")
    parser.add_argument("--letters", type=int, default=66, help="letters in a batch")
    parser.add_argument("--lr", type=float, default=0.3, help="highest learning rate of the one-cycle schedule")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    fonts = [path for folder in args.fonts for path in sorted(folder.rglob("*.ttf")) if "Math" not in path.name]
    glyphs = load_glyphs([path for i, path in enumerate(fonts) if i % HELD_OUT_FONT])
    unseen_glyphs = load_glyphs(fonts[::HELD_OUT_FONT])
    photos, test_photos = load_photos(args.cifar / "train"), load_photos(args.cifar / "test")
    print(f"{len(photos[0])} photos, {len(fonts)} fonts, {len(glyphs[0])} letters", flush=True)

    backbone = timm.create_model(args.architecture, num_classes=0, **args.arguments)
    model = Pretraining(backbone, letters=int(glyphs[1].max()) + 1, photos=int(photos[1].max()) + 1)
    model = model.to(memory_format=torch.channels_last)
    train(model, photos, glyphs, args)

    letters = draw_letters(unseen_glyphs[0].repeat(4, 1, 1, 1), args.size)
    enlarged = F.interpolate(test_photos[0].float() / 255, (args.size, args.size), mode="bilinear")
    print(
        f"CIFAR-10 test accuracy {accuracy(model, model.photos, enlarged, test_photos[1]):.1f} %, "
        f"letters of unseen fonts {accuracy(model, model.letters, letters, unseen_glyphs[1].repeat(4)):.1f} %"
    )
    save(backbone, args, sorted({path.parent.name for path in fonts}))


if __name__ == "__main__":
    main()
