"""Examples in docstrings run, and the README names every command."""

import doctest
import importlib
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featurepipe
from featurepipe import probes, protocols
from featurepipe.backbones.makers import BUNDLED_FILES
from featurepipe.cli import main

ROOT = Path(featurepipe.__file__).parents[1]
README = ROOT / "README.md"
MODULES = sorted(info.name for info in pkgutil.walk_packages(featurepipe.__path__, "featurepipe."))
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")))
UNCOMMON = r"for want of|\bbut for\b|\bso many\b|that there is not|\bflatters?\b|\blikewise\b|\bditto\b"
EXAMPLES = [
    example
    for name in ("featurepipe", *MODULES)
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if example.examples
]


def test_there_are_examples():
    assert {
        "featurepipe",
        "featurepipe.estimators.extractor.FeatureExtractor",
        "featurepipe.manifests.manifest.read",
    } <= {example.name for example in EXAMPLES}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_docstring_example(example, tmp_path, monkeypatch):
    if not (ROOT / "data" / "digits" / "train").is_dir():
        pytest.skip("needs the repository's data/digits")
    if not BUNDLED_FILES["bundled"].is_file() and example.name.rsplit(".", 1)[-1] not in (
        "read",
        "canonical_json",
        "wilson",
    ):
        pytest.skip("needs the bundled weights")
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(
        probes.KINDS, "logistic", replace(probes.KINDS["logistic"], grid=(0.01, 0.1, 1.0))
    )  # to be quick
    for line in example.examples:
        line.source = line.source.replace('"/tmp/', f'"{tmp_path.as_posix()}/')
    example.globs.setdefault("np", np)
    failures = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=failures.append)
    assert not runner.failures, "".join(failures)


def test_the_readmes_table_names_every_command():
    rows = re.findall(r"^\|\s*`featurepipe (\w+)[^`]*`", README.read_text("utf-8"), re.MULTILINE)
    if not rows:
        pytest.skip("the README has no table of commands yet")
    assert sorted(rows) == sorted(main.commands)


def test_the_readmes_figures_are_those_of_its_picture():
    (shown,) = re.findall(r"test top-1 +([\d.]+ %)", README.read_text("utf-8"))
    with Image.open(ROOT / "docs" / "report.png") as picture:
        assert f" {shown} test top-1" in picture.text["page"]


def test_the_readmes_links_and_files_exist():
    for page in (README, *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_has_each_room_with_public_names():
    listed = re.findall(r"^   (featurepipe\S*)$", (ROOT / "docs" / "reference.md").read_text("utf-8"), re.MULTILINE)
    elsewhere = {"featurepipe.estimators", "featurepipe.stages"}  # all of theirs are names of the package
    rooms = [name for name in MODULES if name.count(".") == 1 and hasattr(importlib.import_module(name), "__all__")]
    assert listed == sorted(listed)
    assert {"featurepipe", *rooms} - elsewhere <= set(listed)


@pytest.mark.parametrize(
    "file", [*PAGES, *sorted(Path(featurepipe.__file__).parent.rglob("*.py"))], ids=lambda p: p.name
)
def test_texts_are_in_common_words_and_parameters_have_a_subject(file):
    if not file.is_file():
        pytest.skip("not in an installed package")
    text = file.read_text("utf-8")
    assert not re.findall(UNCOMMON, text, re.IGNORECASE)
    assert not re.findall(r"^ +[\w*, ]+ : .*\n +(?:Of|Likewise)\b.*", text, re.MULTILINE)


def test_the_table_of_protocols_says_what_they_are():
    page = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in page.splitlines() if "| `" in line]
    for row, protocol in zip(rows, protocols.PROTOCOLS.values(), strict=True):
        shots = f"{', '.join(map(str, protocol.shots))} × {protocol.repeats}" if protocol.shots else "–"
        rules = [protocol.candidates, protocol.normalisation, protocol.selection, protocol.refit]
        metrics = ", ".join(protocol.metrics)
        assert row == [f"`{protocol.name}`", str(protocol.version), protocol.source, *rules, metrics, shots]
        remarks = page.split(f"### {protocol.name}\n")[1].split("###")[0]
        assert re.findall(r"^- (.*)$", remarks, re.MULTILINE) == list(protocol.remarks)


def test_the_architecture_names_every_room_and_what_it_names_exists():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.split("## The rooms")[1].split("## The seams")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "`" in line]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row))]
    package = ROOT / "featurepipe"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(named) == sorted(rooms - {"__init__", "__main__"})
    for dotted in re.findall(
        r"`((?:probes|finetuning|extraction|reports|listeners|protocols|manifests)(?:\.\w+)+)`", page
    ):
        room, *names = dotted.split(".")
        found = importlib.import_module(f"featurepipe.{room}")
        for name in names:
            found = getattr(found, name)
