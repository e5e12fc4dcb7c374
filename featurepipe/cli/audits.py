"""The command that looks for what is wrong with the samples."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import click

from featurepipe.cli.help import Command, options
from featurepipe.cli.options import FORCE, HELD, SAFE_CSV, SEED, TOLD
from featurepipe.cli.terminal import Talk, load_stages, show

WIDTH = 80
SHOWN = 3  # findings of each kind
NAMED = 3  # samples of a finding


@click.command(cls=Command)
@click.argument("store", type=click.Path())
@options(
    click.option("-o", "--output", type=click.Path(), help="File to write: a page FILE.html, or a table FILE.csv."),
    click.option(
        "--fix",
        type=click.Path(),
        metavar="TABLE",
        help="Write a new table of the images, TABLE.csv: without exact copies, with leaked images moved out of the "
        "test split, and with a column of all other findings. No image is deleted and no label is changed.",
    ),
)
@HELD
@SEED
@SAFE_CSV
@FORCE
@TOLD
def audit(store: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Look for copies, leaks, wrong labels, outliers, odd images and shortcuts.

    The embeddings come from the store; the images are read once more. Nothing is changed. Copies across splits make an
    accuracy too good, so it is also measured without them.

    \b
      $ featurepipe extract data/digits -s digits.store
      $ featurepipe audit digits.store
      $ featurepipe audit digits.store -o audit.html --fix digits.csv
    """
    result = load_stages(quiet).audit(store, listener=Talk(quiet), **given)
    show(as_json, result, audit_text)


def audit_text(result: dict[str, Any]) -> str:
    """The result of `audit`: what was found, and the surest findings of each kind."""
    lines = [f"audit of {result['samples']:,} images, by {result['backbone']}"]
    for said in result["summary"]:
        lines += wrap(said, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for finding in result["findings"]:
        by_kind.setdefault(finding["kind"], []).append(finding)
    kinds = [kind for one in result["checks"].values() for kind in one["kinds"]]
    for kind, findings in ((kind, by_kind[kind]) for kind in kinds):
        lines += ["", kind, *(line for finding in findings[:SHOWN] for line in _finding(finding))]
        lines += [f"  … and {len(findings) - SHOWN:,} more"] if len(findings) > SHOWN else []
    skipped = [f"not checked: {name} ({one['skipped']})" for name, one in result["checks"].items() if one["skipped"]]
    return "\n".join([*lines, *([""] if by_kind or skipped else []), *skipped, *_outputs(result)]).rstrip()


def _finding(finding: dict[str, Any]) -> list[str]:
    names = [one["id"] for one in finding["samples"][:NAMED]]
    more = len(finding["samples"]) - len(names)
    said = " = ".join(names) if "copies" in finding["kind"] else ", ".join(names)
    said += f" and {more} more" if more else ""
    why = wrap(finding["reason"], WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    return [*([f"  {said}"] if said else []), *why]


def _outputs(result: dict[str, Any]) -> list[str]:
    lines = []
    if result["fixed"] is not None:
        made = result["fixed"]
        lines.append(
            f"{made['rows']:,} rows ({made['dropped']:,} copies dropped, {made['moved']:,} moved to another split, "
            f"{made['listed']:,} listed in the column audit) → {made['table']}"
        )
    elif result["findings"]:
        lines.append("a table without copies and leaks: the same command with --fix TABLE.csv")
    if result["output"] is not None:
        lines.append(f"findings → {result['output']}")
    elif result["findings"]:
        lines.append("all findings with pictures: the same command with -o audit.html")
    return lines
