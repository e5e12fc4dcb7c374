"""Click options, made from what `featurepipe.vocabulary` says of each."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field
from typing import Any

import click

from featurepipe.cli.help import options
from featurepipe.errors import FinetuningError, ProbeError
from featurepipe.vocabulary import Flag, flags_of


def flags(
    *classes: type,
    panel: str | None = None,
    first: Sequence[str] = (),
    last: Sequence[str] = (),
    without: Collection[str] = (),
) -> Callable[..., Any]:
    """All flags that classes of options have under one heading of --help, in the order of their fields.

    Parameters
    ----------
    *classes : type
    panel : str, optional
        The heading; None is the first one.
    first, last : sequence of str
        Keywords of flags that come before and after the others, in this order.
    without : collection of str
        Keywords of flags that are left out.
    """
    found = {flag.keyword: (field, flag) for field, flag in flags_of(*classes) if flag.panel == panel}
    middle = [name for name in found if name not in (*first, *last, *without)]
    return options(*(_click_option(*found[name]) for name in (*first, *middle, *last)), group=panel)


def flag(group: type, keyword: str) -> Callable[..., Any]:
    """One flag of a class of options."""
    field, found = next(pair for pair in flags_of(group) if pair[1].keyword == keyword)
    return options(_click_option(field, found), group=found.panel)


def _click_option(field: Field[Any], flag: Flag) -> Callable[..., Any]:
    about: dict[str, Any] = {"help": flag.help, "metavar": flag.metavar, "multiple": flag.many, "nargs": flag.count}
    if flag.parse is not None:
        about["callback"] = PARSERS[flag.parse]
    default: Any = field.default
    if flag.shown:
        about |= {"default": list(default) if flag.many else default, "show_default": True}
    if isinstance(default, bool):
        return click.option(*flag.names, is_flag=True, **{**about, "default": default})
    return click.option(*flag.names, type=_type(flag), **about)


def _type(flag: Flag) -> click.ParamType[Any] | None:
    if flag.choices:
        return click.Choice(flag.choices)
    if flag.kind == "path":
        return click.Path()
    if flag.least is None:
        return {"text": None, "integer": click.INT, "number": click.FLOAT}[flag.kind]
    ranged: Callable[..., click.ParamType[Any]] = click.IntRange if flag.kind == "integer" else click.FloatRange
    return ranged(flag.least, flag.most, min_open=flag.above, max_open=flag.below)


def _parse_arguments(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value that is a Python literal becomes one (8, True, (1, 2)), anything else stays text."""
    arguments: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as pad_type=same")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return arguments


def _parse_shots(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        shots = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1,5,10") from None
    if any(n < 1 for n in shots):
        raise click.BadParameter("shots must be at least 1")
    return shots


def _parse_kinds(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from featurepipe.probes import KINDS  # here: it loads NumPy, which --help does without

    unknown = [value for value in values if value not in KINDS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(KINDS)}")
    return tuple(dict.fromkeys(values))


def _parse_depth(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """How deep to tune, if that reads as one."""
    if value is None:
        return None
    from featurepipe.finetuning import check_depth  # here: it loads NumPy, which --help does without

    try:
        check_depth(value)
    except FinetuningError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _parse_listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def _parse_bands(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        bands = None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 4,3,2") from None
    if bands is not None and min(bands) < 1:
        raise click.BadParameter("the first band is 1")
    return bands


def _parse_threshold(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """A confidence, or auto."""
    if value is None:
        return None
    from featurepipe.models.abstentions import parse  # here: it loads NumPy, which --help does without

    try:
        return parse(value)
    except ProbeError as error:
        raise click.BadParameter(str(error)) from None


PARSERS: dict[str, Callable[..., Any]] = {
    "arguments": _parse_arguments,
    "bands": _parse_bands,
    "depth": _parse_depth,
    "devices": _parse_listed,
    "kinds": _parse_kinds,
    "listed": _parse_listed,
    "shots": _parse_shots,
    "threshold": _parse_threshold,
}
