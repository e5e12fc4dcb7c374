"""The process of a command: signals that end it, streams that are closed, broken or of few characters."""

import glob
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from featurepipe import cli, stages
from featurepipe.cli.process import BROKEN_PIPE, TERMINATED
from featurepipe.stores import Store

PROGRAM = [sys.executable, "-c", "from featurepipe.cli import main; main(prog_name='featurepipe')"]
TINY = ["-b", "test_resnet", "--random-weights", "--input-size", "3", "32", "32", "--device", "cpu"]
POSIX = pytest.mark.skipif(os.name == "nt", reason="no such signals or descriptors there")


def run(*arguments, **options):
    return subprocess.run([*PROGRAM, *map(str, arguments)], text=True, timeout=120, **options)


@pytest.fixture
def broken():
    """The writing end of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.processes
@POSIX
def test_sigterm_in_the_middle_of_extract_keeps_what_is_finished_and_exits_143(photos, tmp_path):
    data, store = photos(per_class=300, size=(33, 32)), tmp_path / "s"
    slow = [*TINY, "--batch-size", "1", "--rows-per-shard", "4", "--json"]
    arguments = [*PROGRAM, "extract", str(data), "-s", str(store), *slow]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not glob.glob(f"{store}/*/shard-00002.h5") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == TERMINATED == 143
    assert stderr.splitlines()[-1] == f"featurepipe: {cli.RESUME}"
    assert json.loads(stdout) == {"error": cli.RESUME}
    assert not list(store.rglob("*.partial"))
    (entry,) = Store.open(store).entries()
    assert 12 <= len(entry.places()) < 600


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["raised", "told"])
def test_the_exit_code_says_which_signal_ended_a_command(monkeypatch, number, code, where):
    def stage(*_, **__):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if where == "raised":
                raise
        return {"finetuning": {"stopped": "interrupted"}, "stopped": "interrupted"}  # as a tuning keeps its best

    monkeypatch.setattr(stages, "finetune", stage)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell's background jobs do
    try:
        assert CliRunner().invoke(cli.main, ["finetune", "store"]).exit_code == code
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_without_stderr_there_is_no_talk_and_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with cli.Talk().progress("embedding", 2) as advance:
        cli.Talk().note("said to nobody")
        advance(2)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["info", "nowhere"])


class Broken:
    """A terminal that has been closed."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise ValueError("I/O operation on closed file")


def test_a_terminal_that_goes_away_does_not_end_a_run(monkeypatch):
    import tqdm

    bar = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: bar(**{**options, "delay": 0, "mininterval": 0}))
    monkeypatch.setattr(sys, "stderr", Broken())
    talk = cli.Talk()
    with talk.progress("embedding", 2) as advance:
        advance(1)
        talk.note("said to nobody")
        advance(1)


@pytest.mark.processes
@POSIX
def test_whoever_stops_reading_ends_a_command_quietly(broken):
    done = run("backbones", "res*", stdout=broken, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


@pytest.mark.processes
@POSIX
@pytest.mark.parametrize("closed", [(1, 2), (0, 1, 2)])
def test_files_never_get_the_numbers_of_streams_that_are_closed(tmp_path, closed):
    code = "import os, sys; from featurepipe.cli.process import prepared\nwith prepared():\n    "
    code += f"sys.exit(os.open({str(tmp_path / 'file')!r}, os.O_CREAT))"
    redirections = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, code], timeout=60)
    assert done.returncode == 3


@pytest.mark.processes
@pytest.mark.parametrize("command", ["--help", "probe --help"])
def test_help_is_shown_by_a_terminal_that_knows_ascii_only(command):
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run(*command.split(), capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


LOADING = """
import os, signal, sys, time

class Swallows:
    def find_spec(self, name, *_):
        if name == "featurepipe.stages":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
            except KeyboardInterrupt:
                raise ImportError("half loaded")

sys.meta_path.insert(0, Swallows())
from featurepipe.cli import main
main(["info", "nowhere", "--json"], prog_name="featurepipe")
"""
IN_EXEC = """
from featurepipe import cli

class Stages:
    def info(self, path):
        exec("raise KeyboardInterrupt")

cli.load_stages = lambda quiet: Stages()
cli.main(["info", "nowhere", "--json"], prog_name="featurepipe")
"""


@pytest.mark.processes
@POSIX
@pytest.mark.parametrize(("program", "code"), [(LOADING, 143), (IN_EXEC, 130)], ids=["loading", "in exec"])
def test_a_signal_while_libraries_load_ends_a_command_as_any_other(program, code):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, json.loads(done.stdout)) == (code, {"error": cli.AGAIN}), done.stderr


EVERY_COMMAND = """
import json, os, sys
from pathlib import Path
import wordy
from featurepipe import cli
at = Path(sys.argv[1])
codes = {}
def call(name, *arguments):
    try:
        cli.main([name, *map(str, arguments)], prog_name="featurepipe")
    except SystemExit as ending:
        codes[name] = ending.code
tiny = ["-b", "test_resnet", "--random-weights", "--input-size", 3, 32, 32, "--device", "cpu"]
data, store, model = at / "photos", at / "out/store", at / "m.safetensors"
call("run", data, "-o", at / "out", *tiny, "--baselines", "none")
call("extract", data, "-s", store, *tiny)
call("probe", store, "-o", model, "--baselines", "none")
call("compare", store, "--kind", "ridge", "--kind", "centroid", "--baselines", "none")
call("advise", store)
call("finetune", store, "-o", at / "tuned.safetensors", "--tune", "head", "--epochs", 1)
call("evaluate", model, data)
call("predict", model, data, "-o", at / "p.csv")
call("report", model)
call("explain", model, data / "猫", "-o", at / "maps")
call("info", model)
call("verify", store)
call("export", store, "-o", at / "e.npz")
call("audit", store)
call("search", store, data)
call("extract", data / "猫", "-s", at / "unlabelled", *tiny)
call("label", at / "unlabelled")
small = ["-b", "test_resnet", "--input-size", 3, 32, 32, "--device", "cpu"]
call("pretrain", data, "-o", at / "b.safetensors", *small, "--epochs", 1)
wordy.install()
call("zeroshot", "naïve,猫", "-b", "wordy:test_resnet", "-o", at / "z.safetensors", "--device", "cpu")
from PIL import Image
for path in data.rglob("*.png"):
    mask = at / "masks" / path.relative_to(data)
    mask.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).convert("L").point(lambda value: value > 100).convert("L").save(mask)
call("extract", data, "-s", at / "tokens", *tiny, "--tokens")
call("segment", at / "tokens", at / "masks", "-o", at / "s.safetensors")
import hub, huggingface_hub.constants
huggingface_hub.constants.HF_HUB_CACHE = str(at / "cache")
with hub.serving() as server:
    call("push", model, "ann/cats", "--endpoint", server.url)
    call("pull", "ann/cats", "-o", at / "pulled.safetensors", "--endpoint", server.url)
call("paint", at / "s.safetensors", data / "猫", "-o", at / "painted", "--overlays")
call("backbones", "test_vit*")
(at / "codes.json").write_text(json.dumps([codes, sorted(cli.main.commands)]))
"""


@pytest.mark.processes
@POSIX
@pytest.mark.parametrize("streams", ["ascii", "closed"])
def test_every_command_runs_in_the_c_locale_on_one_thread_with_warnings_as_errors(photos, tmp_path, streams):
    photos(classes=("naïve", "Ωmega", "猫"), per_class=6, size=(33, 32))
    hostile = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    script = tmp_path / "commands.py"
    script.write_text(EVERY_COMMAND)
    closing = {"ascii": "", "closed": " >&- 2>&- <&-"}[streams]
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@"{closing}', sys.executable, str(script), str(tmp_path)],
        env={**os.environ, **hostile, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        timeout=300,
    )
    codes, commands = json.loads((tmp_path / "codes.json").read_text())
    assert codes == dict.fromkeys(commands, 0), done.stderr
    answers = (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert all(name in answers for name in ("naïve", "Ωmega", "猫"))
