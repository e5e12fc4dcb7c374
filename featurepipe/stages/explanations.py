"""The stage `explain`: which part of an image speaks for a class, as pictures."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from featurepipe import attributions, models
from featurepipe.backbones import Backbone
from featurepipe.errors import ManifestError, ModelFileError, OutputError, SampleError
from featurepipe.files import check_output, write_bytes
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests import Manifest, Sample
from featurepipe.models import Model
from featurepipe.models.folders import name_key, safe_name
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import ColumnOptions, OriginOptions

SOFTWARE = "featurepipe explain"
SIDE = 256  # pixels that a picture has at least
STRENGTH = 0.65  # of the colour where the map is strongest
COLOURS = np.array([(0, 0, 60), (150, 30, 120), (240, 110, 40), (255, 250, 160)], float)  # of a map from 0 to 1


@guarded
@presented
@spread(columns=ColumnOptions, origin=OriginOptions)
def explain(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    label: str | None = None,
    columns: ColumnOptions,
    origin: OriginOptions,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Draw which part of each image speaks for its class, by the network and the probe's own weights.

    Each picture is in grey what the network sees of an image, with the places that raise the score of the class in
    warm colours. How the map is made, and from which papers, says `featurepipe.attributions`. It shows what the model
    looks at, and not what a person should.

    Parameters
    ----------
    model : path
    data : path, or sequence of path
        Images, folders or tables.
    output : path
        Folder for the pictures, ``NAME.png`` each.
    label : str, optional
        The class to explain; by default the one that the model answers.
    columns
    origin
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, output, explained`` (the number of pictures), ``images`` (for each ``id, label, confidence`` (the
        answer), ``of`` (the class of the map) and ``map``, the picture's path), ``rejected, rejects, seconds``.

    Raises
    ------
    ModelFileError
        The kind of probe has no weights, or does not know the class.
    BackboneError
        The backbone is not a network that torch runs on images, or gives no map.
    OutputError
        A picture would replace what it must not.

    Examples
    --------
    >>> from featurepipe import run
    >>> made = run("data/digits", "/tmp/explained.featurepipe", baselines="none")
    >>> found = explain(made["model"], "data/digits/test/3/1202.png", "/tmp/explained")
    >>> found["images"][0]["of"], found["explained"]
    ('3', 1)
    """
    started, folder = time.perf_counter(), Path(output)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; name a folder for the pictures with -o")
    file = models.locate(model)
    loaded = models.load_of_samples(file)
    models.check_single(loaded, file, "explain")
    number = None if label is None else _number(loaded, label, file)
    places = [data] if isinstance(data, str | PathLike) else list(data)
    manifest = clips.gather(places, columns, listener, "image")
    clips.check_medium("image", manifest, str(file))
    opened = models.open_backbone(loaded, file, **vars(origin), note=listener.note)
    models.check_width(loaded, opened.width, file)
    backbone = attributions.check(loaded, opened, str(file))
    targets = _targets(folder, manifest)
    inputs = [file, *map(manifest.file, manifest.samples)]
    for target in targets:
        check_output(target, "picture", is_explanation, inputs if target.exists() else (), force=force)
    rejects: dict[str, str] = {}
    images = []
    with listener.progress("explaining", len(manifest)) as advance:
        for sample, target in zip(manifest.samples, targets, strict=True):
            try:
                pixels = backbone.transform.decode(manifest.source.read(sample.place), sample.part)  # (C, H, W)
            except (SampleError, OSError) as error:
                rejects[sample.id] = str(error)
                continue
            images.append(_explained(loaded, backbone, sample, pixels, number, target))
            advance(1)
    if not images:
        id_, reason = next(iter(rejects.items()))
        raise ManifestError(f"no image can be read; first reason: {reason} ({id_})")
    return {
        "model": str(file),
        "output": str(folder),
        "explained": len(images),
        "images": images,
        "rejected": len(rejects),
        "rejects": rejects,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _number(model: Model, label: str, file: Path) -> int:
    known = list(map(str, model.classes.tolist()))
    if label not in known:
        shown = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
        raise ModelFileError(f"{file} knows no class {label!r}; it knows {shown}")
    return known.index(label)


def _targets(folder: Path, manifest: Manifest) -> list[Path]:
    """Where the picture of each sample goes: after its own name, or where two have it, after all of its id.

    Raises
    ------
    OutputError
        Two samples come to one name after all.
    """
    names = [safe_name(f"{Path(sample.id).stem}.png") for sample in manifest.samples]
    counts = Counter(map(name_key, names))
    made, taken = [], dict[str, str]()
    for sample, name in zip(manifest.samples, names, strict=True):
        own = safe_name(f"{sample.id}.png") if counts[name_key(name)] > 1 else name
        if (other := taken.setdefault(name_key(own), sample.id)) != sample.id:
            raise OutputError(
                f"the pictures of {other!r} and {sample.id!r} would be one file, {own}; rename one of them"
            )
        made.append(folder / own)
    return made


def _explained(
    model: Model, backbone: Backbone, sample: Sample, pixels: np.ndarray, number: int | None, target: Path
) -> dict[str, Any]:
    """Draw one image, and say what was drawn."""
    proba = model.predict_proba(backbone.embed(pixels[None]))[0]  # (K,)
    best = int(proba.argmax())
    wanted = best if number is None else number
    found = attributions.attribute(model, backbone, pixels, wanted)
    write_bytes(target, overlay(pixels, found))
    return {
        "id": sample.id,
        "label": str(model.classes[best]),
        "confidence": float(proba[best]),
        "of": str(model.classes[wanted]),
        "map": str(target),
    }


def overlay(pixels: np.ndarray, found: np.ndarray) -> bytes:
    """A PNG of an image under a map.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (C, H, W)
        What the network sees; if it has not three channels, the first one is shown.
    found : ndarray, shape (h, w)
        From 0 to 1.
    """
    shown = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    height, width = shown.shape[1:]
    scale = max(1, -(-SIDE // min(height, width)))
    size = (width * scale, height * scale)
    grey = Image.fromarray(shown.transpose(1, 2, 0)).convert("L").resize(size, Image.Resampling.NEAREST)
    image = np.asarray(grey, float)[..., None]  # (H, W, 1): in colours of its own those of the map would be lost
    heat = np.asarray(Image.fromarray(found.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))  # (H, W)
    steps = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, steps, one) for one in COLOURS.T], axis=2)  # (H, W, 3)
    weight = STRENGTH * heat[..., None]
    blended = Image.fromarray(np.clip((1 - weight) * image + weight * colour, 0, 255).astype(np.uint8))
    about, file = PngInfo(), io.BytesIO()
    about.add_text("Software", SOFTWARE)
    blended.save(file, "PNG", pnginfo=about)
    return file.getvalue()


def is_explanation(path: Path) -> bool:
    """Whether a file is a picture that `explain` made."""
    try:
        with Image.open(path) as image:
            return image.format == "PNG" and image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False
