"""The direction of imports: a module imports only from rows above its own, and only the command line prints."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featurepipe

PACKAGE = Path(featurepipe.__file__).parent
# DESIGN's table, lowest first; modules of one row may not import each other.
ROWS = (
    ("characters", "errors", "inputs"),
    ("digests", "files", "interrupts", "jsons", "listeners", "surroundings"),
    ("manifests", "backbones"),
    ("images",),
    ("shards",),
    ("stores",),
    ("extraction",),
    ("matrices",),
    ("statistics",),
    ("solvers",),
    ("probes",),
    ("protocols",),
    ("cards",),
    ("models",),
    ("finetuning",),
    ("advice",),
    ("comparisons",),
    ("reports",),
    ("estimators",),
    ("stages",),
    ("cli",),
    ("__main__",),
)
ROW = {module: number for number, row in enumerate(ROWS) for module in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The module of the table that a file belongs to; '' for the package's own __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path):
    """Modules of featurepipe that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("featurepipe."))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            base, *rest = (node.module or "").split(".")
            if base == "featurepipe":
                yield from rest[:1] or (alias.name for alias in node.names)


def test_there_are_files_to_check():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_stands_in_a_room_and_imports_from_rows_above(path):
    here = room(path)
    if not here:
        assert list(imported(path)) == []  # the package itself loads nothing
        return
    assert here in ROW, f"{here} is not in the table"
    for other in imported(path):
        if other in ("__version__", here):
            continue
        assert ROW[other] < ROW[here], f"{here} imports {other}"


def names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_command_line_prints_or_exits_and_only_listeners_draw_progress(path):
    used = set(names(ast.parse(path.read_text("utf-8"))))
    loud = used & {"print", "exit", "quit", "sys.exit", "os._exit", "click", "tqdm", "sys.stdout.write", "input"}
    assert room(path) in ("cli", "listeners") or not loud
    assert "print" not in loud


@pytest.mark.parametrize("statement", ["import featurepipe", "import featurepipe.cli", "import featurepipe.errors"])
def test_importing_loads_nothing_heavy(statement):
    heavy = "{'torch', 'timm', 'sklearn', 'scipy', 'h5py', 'PIL', 'numpy'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names_load_and_others_do_not_exist():
    for name in featurepipe.__all__:
        assert getattr(featurepipe, name) is not None
        assert name in dir(featurepipe)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        featurepipe.fly  # noqa: B018
