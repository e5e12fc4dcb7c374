"""JSON of files: parsed within bounds and compared with a shape; whatever a file holds, each error is a ValueError."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

DEEPEST = 64  # arrays and objects inside each other: nothing that featurepipe writes has a fifth of it
SHOWN = 40  # characters of a wrong value
LONGEST = 19  # digits of a whole number: those of 64 bits
_STRING, _BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL), re.compile(r"[\[\]{}]")
_DIGEST = re.compile("[0-9a-f]{64}")
_VERSION = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?")


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


def version(value: Any) -> tuple[int, int]:
    """Major and minor number of a format's version; a ValueError if it is none.

    Examples
    --------
    >>> version("1.2"), version("3")
    ((1, 2), (3, 0))
    """
    found = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{_shown(value)} is not a version")
    return int(found[1]), int(found[2] or 0)


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


@dataclass(frozen=True)
class Type:
    """A type of value, for `check`.

    Attributes
    ----------
    name : str
        In words, after "is not".
    fits : callable
        Whether a value is of that type.
    """

    name: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object whose keys are free, and whose values are all of one shape."""

    shape: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TEXT = Type("text", lambda value: isinstance(value, str))
FLAG = Type("true or false", lambda value: isinstance(value, bool))
NUMBER = Type("a number", _is_number)
COUNT = Type("a whole number from 0", lambda value: _is_number(value) and isinstance(value, int) and value >= 0)
SHARE = Type("a number from 0 to 1", lambda value: _is_number(value) and -1e-9 <= value <= 1 + 1e-9)
DIGEST = Type("64 hexadecimal digits", lambda value: isinstance(value, str) and _DIGEST.fullmatch(value) is not None)
ANYTHING = Type("anything", lambda value: True)


def check(value: Any, shape: Any, what: str) -> None:
    """Compare what JSON holds with what a reader needs.

    Parameters
    ----------
    value : JSON value
    shape : Type, None, dict, list, tuple or Each
        A dict names keys (with ``?`` at their end: that may be missing) and the shapes of their values, other keys are
        free; a list holds the shape of all items; a tuple holds alternatives, of which None is one that is null.
    what : str
        What the value is, in words: an error begins with it.

    Raises
    ------
    ValueError
        It names the first value that does not fit.

    Examples
    --------
    >>> check({"n": 3, "notes": []}, {"n": COUNT, "notes": [TEXT], "seed?": (COUNT, None)}, "the card")
    >>> check({"n": -3, "notes": []}, {"n": COUNT, "notes": [TEXT]}, "the card")
    Traceback (most recent call last):
        ...
    ValueError: the card.n is -3, not a whole number from 0
    """
    if isinstance(shape, tuple):
        shape = next((one for one in shape if _may_be(value, one)), shape[0])
    if isinstance(shape, dict):
        _check_type(value, dict, "an object", what)
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name in value:
                check(value[name], inner, f"{what}.{name}")
            elif name == key:
                raise ValueError(f"{what}.{name} is missing")
    elif isinstance(shape, Each):
        _check_type(value, dict, "an object", what)
        for key, one in value.items():
            check(one, shape.shape, f"{what}.{key}")
    elif isinstance(shape, list):
        _check_type(value, list, "a list", what)
        for number, one in enumerate(value):
            check(one, shape[0], f"{what}[{number}]")
    elif not _may_be(value, shape):
        raise ValueError(f"{what} is {_shown(value)}, not {'null' if shape is None else shape.name}")


def _may_be(value: Any, shape: Any) -> bool:
    """Whether a value is of the outermost type that a shape wants."""
    if isinstance(shape, Type):
        return shape.fits(value)
    return value is None if shape is None else isinstance(value, list if isinstance(shape, list) else dict)


def _check_type(value: Any, wanted: type, name: str, what: str) -> None:
    if not isinstance(value, wanted):
        raise ValueError(f"{what} is {_shown(value)}, not {name}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
