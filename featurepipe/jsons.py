"""JSON that comes from a file: parsed within bounds, so that whatever a file holds, only ValueError is raised."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

DEEPEST = 64  # arrays and objects inside each other: nothing that featurepipe writes has a fifth of it
LONGEST = 19  # digits of a whole number: those of 64 bits
_STRING, _BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL), re.compile(r"[\[\]{}]")


def loads(text: str, what: str) -> Any:
    """Parse JSON of a file.

    Parameters
    ----------
    text : str
    what : str
        What it is, in words: an error begins with it.

    Raises
    ------
    ValueError
        It is not JSON, or has what nothing of featurepipe needs: deep nesting, numbers that are not finite or do not
        fit 64 bits, half characters.

    Examples
    --------
    >>> loads('{"a": [1, 2.5, null]}', "the header")
    {'a': [1, 2.5, None]}
    >>> loads("[" * 100_000, "the header")
    Traceback (most recent call last):
        ...
    ValueError: the header is nested more than 64 deep
    """
    if _depth(text) > DEEPEST:
        raise ValueError(f"{what} is nested more than {DEEPEST} deep")
    try:
        found = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_refuse)
        if "\\u" in text:  # the only way to write half a character; bytes of file names that are not UTF-8 are kept
            json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON that can be read: {error}") from error
    return found


def _depth(text: str) -> int:
    """How deep arrays and objects lie inside each other; brackets inside strings do not count."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > LONGEST:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")
