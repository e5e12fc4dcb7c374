"""The direction of imports: a module imports only from rows above its own, a room has no circles, and only the command
line prints.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import featurepipe

PACKAGE = Path(featurepipe.__file__).parent
# DESIGN's table, lowest first; modules of one row may not import each other.
ROWS = (
    ("characters", "errors", "inputs", "signatures", "vocabulary"),
    ("digests", "files", "interrupts", "jsons", "listeners", "memory", "surroundings"),
    ("tables", "media"),
    ("sources",),
    ("manifests",),
    ("images", "sounds", "texts"),
    ("videos",),
    ("backbones",),
    ("shards",),
    ("stores",),
    ("matrices",),
    ("extraction",),
    ("statistics",),
    ("solvers",),
    ("probes",),
    ("protocols",),
    ("cards",),
    ("models",),
    ("segmentation",),
    ("finetuning",),
    ("graphs",),
    ("attributions",),
    ("repositories",),
    ("pretraining",),
    ("advice",),
    ("comparisons",),
    ("audits",),
    ("acquisitions",),
    ("reports",),
    ("results",),
    ("plots",),
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


@pytest.mark.slow
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


def modules(package):
    """The files of a package, by the names that they are imported by."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def wanted(path, known):
    """The known modules that a file imports, wherever in it: in a function, or for annotations alone, too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names = {part if part in known else node.module for part in parts}
        else:
            continue
        yield from names & known.keys()


def circle(package):
    """Modules that import each other in a circle, the first of them at the end again; nothing if there are none."""
    known = modules(package)
    try:
        TopologicalSorter({name: {*wanted(path, known)} - {name} for name, path in known.items()}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.slow
def test_no_modules_import_each_other_in_a_circle():
    assert circle(PACKAGE) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from room.b import x",
        "from room import b",
        "import room.b",
        "def f():\n    from room.b import x",
        "if TYPE_CHECKING:\n    from room.b import X",
    ],
)
def test_a_circle_is_found_wherever_the_import_is(tmp_path, statement):
    package = tmp_path / "room"
    package.mkdir()
    for name, text in {"__init__": "from room.a import y", "a": statement, "b": "from room.c import z"}.items():
        (package / f"{name}.py").write_text(text)
    (package / "c.py").write_text("")
    assert circle(package) == []
    (package / "c.py").write_text("from room.a import y")
    assert set(circle(package)) == {"room.a", "room.b", "room.c"}
    (package / "c.py").write_text("from room import y")  # of what its own package brings together
    assert set(circle(package)) >= {"room", "room.c"}


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


@pytest.mark.processes
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


def test_modules_are_nouns():
    nouns = {"finetuning", "pretraining"}  # the field's own word for what it is
    assert [path.stem for path in FILES if path.stem.endswith("ing") and path.stem not in nouns] == []
