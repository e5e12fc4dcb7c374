"""Help pages: headings, order, and whole sentences."""

import re

import click
import pytest
from click.testing import CliRunner

from featurepipe import cli
from featurepipe.cli.help import COMPLETION, Command, options
from featurepipe.images import DECODERS

ALL = [
    (name, option)
    for name, one in cli.main.commands.items()
    for option in one.params
    if option.param_type_name == "option"
]


def page(*arguments, width=80):
    done = CliRunner().invoke(cli.main, [*arguments, "--help"], terminal_width=width)
    assert done.exit_code == 0
    return done.stdout


def headings(text):
    return re.findall(r"^(\w.*):$", text, re.MULTILINE)


def test_options_are_under_their_headings_and_those_without_one_come_first():
    @click.command(cls=Command)
    @options(
        options(click.option("--deep", help="D."), group="Inner"), click.option("--wide", help="W."), group="Outer"
    )
    @click.option("--plain", help="P.")
    def command(**_):
        pass

    lines = [line.split() for line in CliRunner().invoke(command, ["--help"]).stdout.splitlines() if line.strip()]
    shown = [words[0] for words in lines if words[-1].endswith(":") or words[0].startswith(("--", "Usage"))]
    assert shown == ["Usage:", "Common", "--plain", "--help", "Inner:", "--deep", "Outer:", "--wide"]


def test_run_begins_with_the_dozen_that_are_needed_most():
    text = page("run")
    assert headings(text) == [
        "Common options",
        "Backbone",
        "Input transform",
        "Table",
        "Medium",
        "Compute",
        "Probe",
        "Few labels",
        "Output",
        "Report",
    ]
    first = text.split("\nCommon options:")[1].split("\nBackbone:")[0]
    assert re.findall(r"^  (?:-\w, )?--([\w-]+)", first, re.MULTILINE) == [
        "output",
        "backbone",
        "kind",
        "shots",
        "baselines",
        "promote",
        "device",
        "seed",
        "group",
        "strict",
        "json",
        "help",
    ]


def test_a_command_with_few_options_calls_none_of_them_common():
    assert headings(page("info")) == ["Options", "Output"]


@pytest.mark.parametrize("command", ["extract", "probe", "finetune"])
def test_long_commands_are_grouped(command):
    first, *others = headings(page(command))
    assert first == "Common options"
    assert len(others) >= 3


def test_the_list_of_commands_is_in_the_order_of_use_and_whole():
    text = page()
    assert "…" not in text
    assert "..." not in text.replace("[ARGS]...", "")
    listed = re.findall(r"^  (\w+) {2,}\w", text.split("Commands:")[1], re.MULTILINE)
    assert listed[:3] == ["run", "extract", "probe"]
    assert sorted(listed) == sorted(cli.main.commands)
    for one in cli.main.commands.values():
        sentence = " ".join(one.help.split("\n\n")[0].split()).removesuffix(".")
        assert sentence in " ".join(text.split())


def test_completion_is_mentioned():
    assert " ".join(COMPLETION.split()) in " ".join(page().split())


@pytest.mark.parametrize(("command", "option"), ALL, ids=lambda one: getattr(one, "name", one))
def test_a_help_text_is_a_sentence_that_makes_sense_without_the_name(command, option):
    assert not re.match(r"(Of|Likewise|Ditto|Share of it|Start\.|In training)\b", option.help)
    assert option.help[0].isupper() or option.help.startswith(("timm", "FILE"))
    assert re.search(r"[.!]( +\[default: .*\])?$|\]$", option.help), option.help


@pytest.mark.parametrize("command", [None, *cli.main.commands])
@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal(command, width):
    lines = page(*([command] if command else []), width=width).splitlines()
    assert not [line for line in lines if len(line) > width]


def test_every_decoder_can_be_chosen():
    offered = [option.type.choices for _, option in ALL if option.name == "decoder"]
    assert offered
    assert all(set(choices) == {"auto", *DECODERS} for choices in offered)
