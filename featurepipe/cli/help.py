"""Help pages: options under headings, the most needed ones first, and no sentence cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

COMPLETION = (
    "To complete commands and options with Tab, add this line to ~/.bashrc: "
    'eval "$(_FEATUREPIPE_COMPLETE=bash_source featurepipe)". For zsh, write zsh_source and add it to ~/.zshrc. '
    "For fish, run: _FEATUREPIPE_COMPLETE=fish_source featurepipe | source."
)


def options(*decorators: Callable[..., Any], group: str | None = None) -> Callable[..., Any]:
    """Combine several decorators into one; --help lists their options in this order.

    Parameters
    ----------
    *decorators : callable
        Results of `click.option` or of this function.
    group : str, optional
        Heading in --help for those of the options that have none yet. By default they come first, as "Common options",
        or as "Options" where a command has few.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        known = set(map(id, getattr(function, "__click_params__", ())))
        for decorator in reversed(decorators):
            function = decorator(function)
        for parameter in getattr(function, "__click_params__", ()):
            if id(parameter) not in known and getattr(parameter, "group", None) is None:
                parameter.group = group
        return function

    return decorate


class Command(click.Command):
    """A command whose help has its options under the headings that `options` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        groups: dict[str, list[tuple[str, str]]] = {"": []}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", None) or "", []).append(record)
        first = "Common options" if len(groups) > 2 else "Options"
        for heading, records in groups.items():
            with formatter.section(heading or first):
                formatter.write_dl(records)


class Group(click.Group):
    """A group that lists its commands in the order of their use, each with its whole first sentence."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: D102
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(one)) for name, one in self.commands.items() if not one.hidden])
        formatter.write_paragraph()
        formatter.write_text(COMPLETION)


def _summary(command: click.Command) -> str:
    """The first paragraph of a command's help, without the full stop."""
    return " ".join((command.help or "").split("\n\n")[0].split()).removesuffix(".")
