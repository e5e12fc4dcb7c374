"""JPEG bytes → a tensor, by the first decoder of PyTorch's family that is installed.

torchcodec's needs version 0.16 and no FFmpeg; torchvision's is deprecated and will go. Both give the same pixels
(a test holds that), so which one it was is not part of a fingerprint. Where there is neither, Pillow decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torchcodec", "torchvision")  # in order of preference
HEAD = b"\xff\xd8\xff\xe1\x00\x02"  # a JPEG's first two bytes, and an APP1 segment of no length


def decode_jpeg(data: bytes | bytearray, libraries: Sequence[str] = LIBRARIES) -> torch.Tensor | None:
    """Decode a JPEG file into RGB, uint8 (3, h, w), as it is stored: never turned upright.

    None where no library can, because it is not installed or the file is broken: Pillow then decides.
    """
    for name in libraries:
        decoder = _decoder(name)
        if decoder is not None:
            try:
                return decoder(data)
            except RuntimeError:
                continue
    return None


def installed(name: str) -> bool:
    """Whether one of `LIBRARIES` is here and can decode."""
    return _decoder(name) is not None


@cache
def _decoder(name: str) -> Callable[[bytes | bytearray], torch.Tensor] | None:
    try:
        return {"torchcodec": _torchcodec, "torchvision": _torchvision}[name]()
    except (ImportError, AttributeError, OSError, RuntimeError):  # missing, too old, or built for another torch
        return None


def _torchcodec() -> Callable[[bytes | bytearray], torch.Tensor]:
    from torchcodec.decoders import decode_jpeg as decode

    def decoder(data: bytes | bytearray) -> torch.Tensor:
        # It would turn the image by the first APP1 segment, wherever that says something that it understands. An empty
        # segment in front says nothing.
        unturned = bytearray(HEAD)
        unturned += memoryview(data)[2:]
        tensor = decode(_tensor(unturned))
        assert not isinstance(tensor, list)  # as of a list of images
        return tensor

    return decoder


def _torchvision() -> Callable[[bytes | bytearray], torch.Tensor]:
    import torch
    from torchvision.io import ImageReadMode  # also loads the operator, whose public function warns at every call

    operator, mode = torch.ops.image.decode_jpeg, ImageReadMode.RGB.value
    return lambda data: operator(_tensor(data if isinstance(data, bytearray) else bytearray(data)), mode, False)


def _tensor(data: bytearray) -> torch.Tensor:
    import torch

    return torch.frombuffer(data, dtype=torch.uint8)
