"""The transform of texts: an input is a text itself, since each encoder splits it into tokens in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from featurepipe.errors import TextError

MOST = 2**20  # bytes of a text: a long novel
COST = 8 * 224  # in pixels: batches of as many texts as any have, which encoders take apart by length
TRIAL = (
    "A short one.",
    "The same text is tried each time, and it is a little longer than the one before.",
    "Numbers such as 1,234.5, marks: (like these), and words – the naïve café – that are not ASCII.",
)


@dataclass(frozen=True)
class TextTransform:
    """Bytes → one text. Inputs are object arrays without axes, so that a batch (B,) holds texts of any length."""

    medium: ClassVar[str] = "text"
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[np.dtype[Any]] = np.dtype(object)
    cost: ClassVar[int] = COST

    def decode(self, data: bytes, part: str | None = None, /) -> np.ndarray:
        """One text, in an array without axes.

        Raises
        ------
        TextError
            It is empty, of more than a mebibyte, or not UTF-8; or a part is asked for, which texts have none of.
        """
        return held(self.read(data, part))

    def read(self, data: bytes, part: str | None = None, /) -> str:
        """One text; TextError as for `decode`."""
        if part is not None:
            raise TextError(f"a text has no parts, such as {part[:40]!r}; leave the part out")
        if len(data) > MOST:
            raise TextError(f"the text has {len(data):,} bytes; texts of at most {MOST:,} are read, so cut it")
        try:
            text = bytes(data).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise TextError(f"it is not UTF-8 (byte 0x{byte:02x} at {error.start:,}); save it as UTF-8") from error
        if not text.strip():
            raise TextError("the text is empty")
        return text

    def trial(self, count: int, /) -> np.ndarray:
        """Texts to try an encoder on, always the same (count,)."""
        return np.array([TRIAL[i % len(TRIAL)] for i in range(count)], object)


def held(value: Any) -> np.ndarray:
    """Any object in an array without axes; NumPy would take a sequence for an axis."""
    room = np.empty((), object)
    room[()] = value
    return room
