"""Options are said once: what notebooks and the command line show of them, and that plain names are those there are."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from featurepipe import (
    backbones,
    cli,
    extraction,
    finetuning,
    images,
    pretraining,
    probes,
    protocols,
    stages,
    vocabulary,
)
from featurepipe.videos import VideoTransform
from featurepipe.vocabulary import BackboneOptions, ProbeOptions, TransformOptions, flags_of, names

HELP = Path(__file__).parent / "help"
CLASSES = [getattr(vocabulary, name) for name in vocabulary.__all__ if name.endswith("Options")]
VERBS = [getattr(stages, name) for name in stages.__all__ if inspect.isfunction(getattr(stages, name))]
TOY = """
import inspect
from dataclasses import dataclass
from click.testing import CliRunner
from featurepipe import vocabulary
from featurepipe.vocabulary import Flag, option

@dataclass(frozen=True)
class Warm(vocabulary.ProbeOptions):
    warmth: float = option(0.5, "How warm it is.", Flag(("--warmth",), "How warm.", "Probe", "number", shown=True))

vocabulary.ProbeOptions = Warm

from featurepipe import cli, stages
from featurepipe.probes.options import Options
for name in ("probe", "probe_layers", "probe_tasks", "run"):
    stage = getattr(stages, name)
    print(name, inspect.signature(stage).parameters["warmth"].default, "How warm it is." in stage.__doc__)
for name in ("probe", "run", "extract", "compare"):
    print(name, "--warmth" in CliRunner().invoke(cli.main, [name, "--help"]).stdout)
print(Options(warmth=0.7).warmth, cli.options.FIXED["warmth"])
"""


def test_a_probe_option_is_added_in_one_place_and_reaches_every_verb():
    done = subprocess.run([sys.executable, "-c", TOY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        *(f"{name} 0.5 True" for name in ("probe", "probe_layers", "probe_tasks", "run")),
        "probe True",
        "run True",
        "extract False",
        "compare False",
        "0.7 --warmth",
    ]


@pytest.mark.parametrize("command", ["", *cli.main.commands])
def test_the_help_says_what_it_said(command):
    """A change of help is made on purpose: the files are what CliRunner shows here."""
    arguments = [command, "--help"] if command else ["--help"]
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(cli.main, arguments).stdout
    kept = (HELP / f"{command or 'featurepipe'}.txt").read_text("utf-8")
    assert shown.split() == kept.split()  # versions of click break lines at different places


def test_every_help_page_that_is_kept_is_of_a_command():
    assert {path.stem for path in HELP.iterdir()} == {"featurepipe", *cli.main.commands}


@pytest.mark.parametrize("stage", VERBS, ids=lambda stage: stage.__name__)
def test_every_parameter_of_a_verb_is_described(stage):
    text = inspect.cleandoc(stage.__doc__).split("Parameters\n----------\n")[1].split("\n\n")[0]
    said = [name for line in re.findall(r"^(\w.*?)(?: :.*)?$", text, re.MULTILINE) for name in line.split(", ")]
    assert said == list(dict.fromkeys(said))
    assert set(said) == set(inspect.signature(stage).parameters)


@pytest.mark.parametrize("group", CLASSES, ids=lambda group: group.__name__)
def test_an_option_has_a_default_that_its_flags_take(group):
    for field, flag in flags_of(group):
        assert field.metadata["doc"].endswith((".", "…"))
        if flag.choices and field.default is not None and flag.shown:
            assert field.default in flag.choices
        if flag.least is not None and flag.shown:
            assert field.default >= flag.least


def test_plain_names_are_those_there_are():
    assert {name: kind.parameter for name, kind in probes.KINDS.items()} == names.KINDS
    assert tuple(name for name, kind in probes.KINDS.items() if kind.on_devices) == names.ON_DEVICES
    assert names.MULTI_LABEL == probes.MULTI_LABEL
    assert tuple(protocols.PROTOCOLS) == names.PROTOCOLS
    metrics = {metric for protocol in protocols.PROTOCOLS.values() for metric in protocol.metrics}
    assert metrics == set(names.METRICS)
    assert (*images.AUGMENTATIONS, "none") == names.AUGMENTATIONS
    assert tuple(pretraining.OBJECTIVES) == names.OBJECTIVES
    assert finetuning.Recipe(head=finetuning.RANDOM, tune=finetuning.HEAD).check() is None


def test_a_backbones_options_are_those_of_create():
    made = inspect.signature(backbones.create).parameters
    wanted = {field.name: field.default for field in fields(BackboneOptions)}
    assert {name: one.default for name, one in made.items() if name not in ("name", "medium", "tokens")} == wanted
    assert "medium" in {field.name for field in fields(vocabulary.ColumnOptions)}  # the data say it


def test_a_transforms_options_are_its_fields():
    of_networks = {"length", "resize"}  # which no user chooses
    wanted = {field.name for field in fields(VideoTransform)} - of_networks
    assert {field.name for field in fields(TransformOptions)} == wanted


def test_settings_are_computed_as_the_options_say():
    plain = vocabulary.ComputeOptions()
    assert extraction.Settings(**vars(plain)) == extraction.Settings()


def test_keywords_are_told_from_flags():
    found = {flag.keyword: flag.long for _, flag in flags_of(ProbeOptions)}
    assert (found["c"], found["k"], found["multi_label"]) == ("--C", "--neighbors", "--multi-label")
    assert next(flag.keyword for _, flag in flags_of(vocabulary.TuneOptions) if "refit" in flag.long) == "refit"
