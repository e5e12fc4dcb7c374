"""What is written to terminals, and to what is none."""

import csv
import io
import json
import re
import sys
import time

import click
import numpy as np
import pytest
import tqdm
from click.testing import CliRunner
from PIL import Image

from featurepipe import cli, stages
from featurepipe.cli import texts
from featurepipe.cli.terminal import Legible, Talk, load_stages, shortened

FIGURES = {"n": 5, "top1": 0.8, "balanced_accuracy": 0.8, "log_loss": 0.5, "ece": 0.1, "ece_uncalibrated": 0.1}
EVALUATED = {**FIGURES, "split": "test", "left_out": 0, "seen_in_training": 0, "rejected": 0, "rejects": {}}
CLASS = {"precision": 1.0, "recall": 0.8, "f1": 0.9, "support": 5}


class Stream(io.StringIO):
    """Standard error, which may be a terminal."""

    terminal = True

    def isatty(self):
        return self.terminal


def stderr_of(monkeypatch):
    """Put a terminal there; in the test itself, since pytest puts its own stream there after the fixtures."""
    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def evaluated(monkeypatch):
    """Makes `evaluate` find figures of some classes at once."""

    def make(classes=("ant", "bee", "cat")):
        result = {**EVALUATED, "per_class": dict.fromkeys(classes, CLASS)}

        def evaluate(*_, listener, **__):
            listener.note("a note")
            return result

        monkeypatch.setattr(stages, "evaluate", evaluate)
        return result

    return make


def invoke(*arguments, **options):
    done = CliRunner().invoke(cli.main, ["evaluate", "m", "d", *arguments], **options)
    assert done.exit_code == 0, done.output
    return done


def test_the_headline_stands_out_on_terminals_only(evaluated):
    evaluated()
    headline = "test top-1     80.0 %"
    assert click.style(headline, bold=True) in invoke(color=True).stdout
    assert invoke().stdout.startswith(f"  {headline}   (n=5")
    assert "\x1b" not in invoke().stdout
    assert "\x1b" not in invoke("--json", color=True).stdout


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color_is_honoured(evaluated, value, coloured):
    evaluated()
    assert ("\x1b" in invoke(color=True, env={"NO_COLOR": value}).stdout) is coloured


def test_quiet_leaves_the_result_and_the_errors(evaluated):
    evaluated()
    assert "a note" in invoke().stderr
    quiet = invoke("-q")
    assert (quiet.stdout, quiet.stderr) == (invoke().stdout, "")
    done = CliRunner().invoke(cli.main, ["info", "nowhere", "--quiet"])
    assert (done.exit_code, done.stderr.count("featurepipe: ")) == (1, 1)


def test_quiet_shows_no_bar(monkeypatch):
    stderr = stderr_of(monkeypatch)
    with Talk(quiet=True).progress("embedding", 1) as advance:
        advance(1)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_says_that_torch_is_loaded_and_goes_again(monkeypatch, terminal):
    stderr = stderr_of(monkeypatch)
    monkeypatch.delitem(sys.modules, "torch")  # as in a process that has just begun
    stderr.terminal = terminal
    assert load_stages() is stages
    said = "loading torch …"
    assert stderr.getvalue() == (f"{said}\r{' ' * len(said)}\r" if terminal else "")
    before = stderr.getvalue()
    load_stages(quiet=True)
    assert stderr.getvalue() == before


def test_where_torch_is_loaded_already_there_is_nothing_to_say(monkeypatch):
    stderr = stderr_of(monkeypatch)
    load_stages()
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("label", ["embedding with vit_tiny_patch16_224 (random weights, seed 0)", "few labels"])
def test_a_bar_fits_a_terminal_of_80_columns(monkeypatch, label):
    stderr = stderr_of(monkeypatch)
    bar = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: bar(**{**options, "delay": 0, "mininterval": 0, "ncols": 79}))
    with Talk().progress(label, 100_000) as advance:
        time.sleep(0.05)  # a rate that a machine can have: thousands a second, not thousands of millions
        advance(45_600)
        shown = stderr.getvalue().split("\r")[-1]
    assert len(shown) <= 79
    assert "45600/100000" in shown
    assert "#" in shown
    assert shown.startswith(shortened(label).rstrip("…"))


def test_of_two_classes_the_lowest_recall_is_not_said(evaluated):
    assert "lowest recall" in texts.evaluate_text(evaluated())
    assert "lowest recall" not in texts.evaluate_text(evaluated(("ant", "bee")))


def test_a_reader_that_has_enough_is_no_error(monkeypatch):
    def evaluate(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(stages, "evaluate", evaluate)
    done = CliRunner().invoke(cli.main, ["evaluate", "m", "d"])
    assert (done.exit_code, done.output) == (141, "")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_note_is_broken_between_words_on_a_terminal_and_one_line_elsewhere(monkeypatch, terminal):
    stderr = stderr_of(monkeypatch)
    stderr.terminal = terminal
    monkeypatch.setenv("COLUMNS", "80")
    path = "/a/path/wider/than/a/" + "terminal/" * 8
    text = f"note: {'some words of a long note ' * 8}{path}"
    Talk().note(text)
    lines = stderr.getvalue().splitlines()
    assert " ".join(map(str.strip, lines)) == text
    if terminal:
        assert [line.strip() for line in lines if len(line) > 80] == [path]
    else:
        assert lines == [text]


# -- names that steer a terminal

EVIL = "\x1b]0;owned\x07\x1b[2J\x08\u202egnp\nfeaturepipe: ok\x9b"
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder whose classes and files are called so; the current one."""
    monkeypatch.chdir(tmp_path)
    for label in ("ant", f"bee{EVIL}"):
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{EVIL}{number}.png")
        (folder / f"broken{EVIL}.png").write_bytes(b"no image")
    return tmp_path


def unsteered(*command, code=0):
    """What a command writes; no character of it moves the cursor, and no name begins a line."""
    found = CliRunner().invoke(cli.main, [str(word) for word in command])
    assert found.exit_code == code, found.output
    for text in (found.stdout, found.stderr):
        assert not STEERS.search(text), repr(text)
        assert "featurepipe: ok" not in text.splitlines()
    return found


def test_names_of_files_and_classes_do_not_steer_the_terminal(hostile):
    fast = ("-j", 1)
    assert "\\x1b]0;owned" in unsteered("extract", "data", "-s", "s", "-b", "pixels", *fast).stdout
    unsteered("probe", "s", "-o", "m.safetensors", "--kind", "ridge", "--baselines", "simple")
    assert "\\u202e" in unsteered("evaluate", "m.safetensors", "data", *fast).stdout
    assert "\\u202e" in unsteered("predict", "m.safetensors", "data", *fast).stdout
    for command in (("info", "s"), ("verify", "s"), ("info", "m.safetensors")):
        unsteered(*command)
    for command in ("info", "verify", "evaluate", "predict", "export", "extract", "report"):
        more = {"evaluate": ["data"], "predict": ["data"], "export": ["-o", "e.csv"]}.get(command, [])
        assert "\\x1b" in unsteered(command, f"nothing{EVIL}", *more, code=1).stderr
    assert "\\x1b" in unsteered("info", "s", f"more{EVIL}", code=2).stderr
    assert "\\x1b" in unsteered(f"--{EVIL}", code=2).stderr


def test_headers_of_tables_do_not_either(hostile):
    (hostile / "t.csv").write_text(f'"pa\x1bth","{EVIL}"\na,b\n')
    assert "\\x1b" in unsteered("extract", "t.csv", code=1).stderr
    (hostile / "u.csv").write_text(f'path,"{EVIL}"\nnothing.png,b\n')
    unsteered("extract", "u.csv", code=1)


def test_json_is_exact(hostile):
    found = unsteered("extract", "data", "-s", "s", "-b", "pixels", "-j", 1, "--json")
    assert f"ant/broken{EVIL}.png" in json.loads(found.stdout)["rejects"]


def test_a_page_holds_no_control_characters(hostile):
    unsteered("run", "data", "-o", "r", "-b", "pixels", "--kind", "ridge", "-j", 1)
    page = next((hostile / "r").rglob("report.html")).read_text()
    assert "\\x1b]0;owned" in page
    assert not STEERS.search(page)


def test_tables_on_a_terminal_do_not_steer_it_and_elsewhere_are_exact():
    seen, piped = Stream(), io.StringIO()
    for stream in (seen, piped):
        csv.writer(Legible.where_seen(stream)).writerow([EVIL, 0.5])
    assert next(csv.reader(io.StringIO(piped.getvalue(), newline="")))[0] == EVIL
    assert not STEERS.search(seen.getvalue())
    assert seen.getvalue().endswith(",0.5\n")
