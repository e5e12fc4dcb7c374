"""Hostile images: every decoder gives pixels or a reason, the same as the others, in bounded time and memory."""

from __future__ import annotations

import io
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import mutators
from .results import Escaped, Trial

ABOUT = "mutated and crafted images of every format that Pillow writes, by every decoder"
CI, COUNT = 100, 10_000
INSIDE, BATCH = True, 500

DECODERS = ("pillow", "torchvision", "draft")
FORMATS = {  # of Pillow → what it is saved with
    "PNG": ({}, {"compress_level": 0}),
    "JPEG": ({}, {"progressive": True}, {"quality": 20, "subsampling": 2}),
    "GIF": ({},),
    "BMP": ({},),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}),
    "WEBP": ({}, {"lossless": True}),
    "PPM": ({},),
    "TGA": ({},),
    "PCX": ({},),
    "ICO": ({},),
    "SGI": ({},),
    "IM": ({},),
    "MSP": ({},),
    "XBM": ({},),
    "DDS": ({},),
    "JPEG2000": ({},),
    "AVIF": ({},),
    "EPS": ({},),
    "PDF": ({},),
    "SPIDER": ({},),
    "ICNS": ({},),
    "DIB": ({},),
    "QOI": ({},),
}
MODES = ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "F", "LA")
SECONDS, MEMORY = 10.0, 3 * 2**30  # of CPU and bytes that one picture may cost, each decoder
FAR = 64  # of 255: two decoders that give means further apart have not decoded the same picture


def prepare(folder: Path) -> list[bytes]:
    """One file of each format and mode that Pillow writes."""
    from PIL import Image

    rng, found = np.random.default_rng(0), []
    picture = Image.fromarray(rng.integers(0, 256, (48, 40, 3), np.uint8)).resize((96, 80))
    for name, options in FORMATS.items():
        for mode in MODES:
            for option in options:
                content = io.BytesIO()
                try:
                    picture.convert(mode).save(content, name, **option)
                except (OSError, ValueError, KeyError, SystemError):  # a format without that mode, or not built in
                    continue
                found.append(content.getvalue())
    return found


def attempt(bench: list[bytes], trial: Trial) -> None:
    """Decode one odd picture by every decoder."""
    name = list(CRAFTED)[trial.number // 10 % len(CRAFTED)] if trial.number % 10 == 0 else "mutated"
    content = (
        CRAFTED[name](trial.rng) if name != "mutated" else mutators.mutate(trial.rng, trial.rng.choice(bench), bench)
    )
    answers = {decoder: answer(content, decoder, name) for decoder in DECODERS}
    kinds = {type(one) for one in answers.values()}
    if len(kinds) > 1:
        raise Escaped(f"{name}: decoders disagree: { {decoder: _brief(one) for decoder, one in answers.items()} }")
    means = [one.mean() for one in answers.values() if isinstance(one, np.ndarray)]
    if means and max(means) - min(means) > FAR:
        raise Escaped(f"{name}: decoders give other pixels: means {means}")


def answer(content: bytes, decoder: str, name: str) -> np.ndarray | str:
    """Pixels or the reason of one decoder; too much time or memory escapes, as does any other error."""
    from featurepipe import images
    from featurepipe.errors import ImageError
    from featurepipe.images import ImageTransform

    transform = ImageTransform((3, 32, 32), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.9, decoder=decoder)
    began, room = time.process_time(), _peak()
    try:
        found: np.ndarray | str = images.decode(bytearray(content), transform)
    except ImageError as error:
        found = str(error)
        if not found.strip():
            raise Escaped(f"{name}: {decoder} rejects without a reason") from error
    spent, grown = time.process_time() - began, _peak() - room
    if spent > SECONDS:
        raise Escaped(f"{name}: {decoder} takes more than {SECONDS:.0f} s of CPU")
    if grown > MEMORY:
        raise Escaped(f"{name}: {decoder} takes more than {MEMORY >> 20} MB")
    if isinstance(found, np.ndarray) and (found.shape != (3, 32, 32) or found.dtype != np.uint8):
        raise Escaped(f"{name}: {decoder} gives {found.dtype} {found.shape}")
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _brief(found: np.ndarray | str) -> str:
    return found[:60] if isinstance(found, str) else "pixels"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, packed: bytes, extra: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def huge(rng: random.Random) -> bytes:
    """A header that promises more than any memory holds."""
    side = rng.choice((20_000, 100_000, 2**31 - 1))
    return _png(side, side, zlib.compress(bytes(1000)))


def allowed(rng: random.Random) -> bytes:
    """Many grey pixels in a file of a few kB, up to about as many as Pillow allows."""
    side, packer = rng.choice((3000, 13_000)), zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(side + 1)) for _ in range(side))
    return _png(side, side, packed + packer.flush())


def scans(rng: random.Random) -> bytes:
    """A progressive JPEG of half a megabyte whose last scan, a few bytes, comes again and again."""
    from PIL import Image

    content = io.BytesIO()
    Image.new("L", (3000, 3000), rng.randrange(256)).save(content, "JPEG", progressive=True)
    data = content.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * rng.choice((2000, 8000)) + data[-2:]


def frames(rng: random.Random) -> bytes:
    """A GIF of many frames on a great canvas."""
    from PIL import Image

    content = io.BytesIO()
    first, *others = (Image.effect_noise((8, 8), n + 1) for n in range(200))
    first.save(content, "GIF", save_all=True, append_images=others)
    data = bytearray(content.getvalue())
    data[6:10] = struct.pack("<HH", 65_535, rng.choice((64, 2500)))
    return bytes(data)


def comment(rng: random.Random) -> bytes:
    """A PNG whose text expands a thousandfold."""
    text = b"key\x00\x00" + zlib.compress(bytes(10**8))
    return _png(8, 8, zlib.compress(bytes(8 * 9)), _chunk(b"zTXt", text))


def cut_off(rng: random.Random) -> bytes:
    """A sound JPEG without its second half."""
    from PIL import Image

    content = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert(rng.choice(("RGB", "L"))).save(content, "JPEG")
    return content.getvalue()[: len(content.getvalue()) // 2]


def program(rng: random.Random) -> bytes:
    """PostScript, which must not run."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(/tmp/ran) (w) file closefile\nshowpage\n"


def narrow(rng: random.Random) -> bytes:
    """A line of pixels, which a resize makes a plane of."""
    return (
        _png(60_000, 1, zlib.compress(bytes(60_001)))
        if rng.random() < 0.5
        else _png(1, 60_000, zlib.compress(bytes(120_000)))
    )


CRAFTED: dict[str, Callable[[random.Random], bytes]] = {
    **{made.__name__: made for made in (huge, scans, frames, comment, cut_off, program, narrow, allowed)},
    "empty": lambda rng: b"",
    "zeros": lambda rng: bytes(rng.randrange(5000)),
}
