"""Spans: parts of a sound or a video, as ``START-STOP`` in seconds."""

from __future__ import annotations

import re

from featurepipe.errors import SampleError

SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)-([0-9]{1,9}(?:\.[0-9]{1,9})?)")
DECIMALS = 3  # of a second, in names


def span_of(part: str, length: float) -> tuple[float, float]:
    """Start and stop of a span, in seconds.

    Parameters
    ----------
    part : str
    length : float
        Seconds of the whole.

    Raises
    ------
    SampleError
        It is not a span, is empty, or reaches beyond the end.

    Examples
    --------
    >>> span_of("12.0-16.5", 60)
    (12.0, 16.5)
    """
    found = SPAN.fullmatch(part)
    if found is None:
        raise SampleError(f"the part {part!r} is not a span of seconds; write START-STOP, such as 12.0-16.0")
    start, stop = map(float, found.groups())
    if start >= stop:
        raise SampleError(f"the span {part} is empty; its end must come after its start")
    if stop > length + 10**-DECIMALS:
        raise SampleError(f"the span {part} reaches beyond the end, which is at {length:.3f} seconds")
    return start, min(stop, length)


def span_name(start: float, stop: float) -> str:
    """The text that `span_of` reads; whole seconds have one decimal.

    Examples
    --------
    >>> span_name(12, 14.25)
    '12.0-14.25'
    """
    return f"{round(float(start), DECIMALS)}-{round(float(stop), DECIMALS)}"
