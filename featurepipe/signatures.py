"""Functions that take options by keyword, without saying each of them again.

`spread` lets a function take a value class of options as one argument, while its callers give the class's fields as
keywords of the function's own. Its signature and docstring show every one of them.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from inspect import Parameter, Signature
from typing import Any, TypeVar

R = TypeVar("R")
WIDTH = 112  # of what a docstring says about a parameter, without its indentation
WORDS = {r"Sequence\[(.+)\]": r"sequence of \1", r"Mapping\[.+\]": "mapping", r"(str \| )?Path(Like\[str\])?": "path"}


def spread(**groups: type) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let callers give the fields of classes of options as keywords.

    Parameters
    ----------
    **groups : type
        Keyword-only parameter of the function → the dataclass whose value it gets. A keyword that several classes have
        goes to each of them. The function's ``**`` parameter may be among them: it gets a dict of those fields that
        were given, and no other keywords. Where the docstring has such a parameter's name alone on a line, it gets
        the descriptions of the fields.

    Examples
    --------
    >>> from dataclasses import dataclass, field
    >>> @dataclass
    ... class Taste:
    ...     sugar: int = field(default=0, metadata={"doc": "Lumps."})
    >>> @spread(taste=Taste)
    ... def tea(cups, *, taste: Taste):
    ...     return cups, taste
    >>> tea(2, sugar=1)
    (2, Taste(sugar=1))
    >>> inspect.signature(tea)
    <Signature (cups, *, sugar: 'int' = 0)>
    >>> tea(2, suger=1)
    Traceback (most recent call last):
    TypeError: tea() has no parameter 'suger'; did you mean 'sugar'?
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        own = inspect.signature(function)
        signature = _signature(own, groups)
        rest = next((name for name in groups if own.parameters[name].kind is Parameter.VAR_KEYWORD), None)
        values = {name: (group, _names(group)) for name, group in groups.items() if name != rest}
        spare = _names(groups[rest]) if rest else ()
        taken = own.parameters.keys() - groups.keys()

        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> R:
            for name in given.keys() - signature.parameters.keys():
                raise TypeError(_unknown(function.__name__, name, signature.parameters))
            made = {
                name: group(**{key: given[key] for key in names if key in given})
                for name, (group, names) in values.items()
            }
            others = {key: value for key, value in given.items() if key in taken or key in spare}
            return function(*args, **made, **others)

        called.__signature__ = signature  # type: ignore[attr-defined]  # what inspect and help show
        called.__doc__ = document(function.__doc__, groups)
        return called

    return decorate


def documented(**groups: type) -> Callable[[type[R]], type[R]]:
    """Describe the fields of options in the docstring of a class, as `spread` does in that of a function."""

    def decorate(one: type[R]) -> type[R]:
        one.__doc__ = document(one.__doc__, groups)
        return one

    return decorate


def document(text: str | None, groups: Mapping[str, type]) -> str | None:
    """A docstring in which the fields of options are described where their parameter's name is alone on a line."""
    if text is None:  # python -OO
        return None
    said: set[str] = set()
    for name, group in groups.items():
        new = [one for one in _fields(group) if one.name not in said]
        said |= {one.name for one in new}
        entries = "\n".join(map(_entry, new))
        place = re.search(rf"^( *){name}$", text, re.MULTILINE)  # from Python 3.13 on, not indented
        if place is not None:
            text = text[: place.start()] + textwrap.indent(entries, place[1]) + text[place.end() :]
    return text


def _fields(group: type) -> list[Field[Any]]:
    return [one for one in fields(group) if one.init]


def _names(group: type) -> list[str]:
    return [one.name for one in _fields(group)]


def _entry(one: Field[Any]) -> str:
    """A field as numpydoc describes a parameter."""
    lines = textwrap.wrap(one.metadata.get("doc", ""), WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{one.name} : {_shape(one)}", *(f"    {line}" for line in lines)])


def _shape(one: Field[Any]) -> str:
    """A field's type, in words."""
    if one.metadata.get("shape"):
        return one.metadata["shape"]
    flags = one.metadata.get("flags", ())
    if flags and flags[0].choices and one.default is not None:
        return "{" + ", ".join(map(repr, flags[0].choices)) + "}"
    given = one.type.__name__ if isinstance(one.type, type) else str(one.type)
    plain, optional, _ = given.partition(" | None")
    for pattern, word in WORDS.items():
        plain = re.sub(pattern, word, plain)
    return plain + (", optional" if optional else "")


def _parameters(group: type) -> Iterator[Parameter]:
    for one in _fields(group):
        default = Parameter.empty if one.default is MISSING else one.default
        yield Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=one.type)


def _signature(own: Signature, groups: Mapping[str, type]) -> Signature:
    """What callers see: the fields in the place of the classes."""
    found: dict[str, Parameter] = {}
    for parameter in own.parameters.values():
        given: Iterable[Parameter] = [parameter]
        if parameter.name in groups:
            given = _parameters(groups[parameter.name])
        for one in given:
            before = found.setdefault(one.name, one)
            if before.default != one.default:
                raise TypeError(f"{one.name} has two defaults, {before.default!r} and {one.default!r}")
    return own.replace(parameters=sorted(found.values(), key=lambda one: one.kind))


def _unknown(function: str, name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"help({function}) lists what it takes"
    return f"{function}() has no parameter {name!r}; {hint}"
