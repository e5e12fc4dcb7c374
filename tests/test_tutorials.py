"""The tutorials: they run, and what the docs show of them is small and names no folder of whoever ran them."""

import base64
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
FIGURE = 50_000  # bytes
BOOK = 200_000
PATHS = re.compile(r"(?<![\w./])/(home|root|Users|tmp)/|[A-Z]:\\\\Users")


def cells(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def test_there_are_five_and_the_docs_list_each():
    assert [path.stem[0] for path in TUTORIALS] == list("12345")
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert all(f"tutorials/{path.stem}\n" in index for path in TUTORIALS)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_outputs_are_there_and_small_and_local(path):
    assert path.stat().st_size < BOOK
    assert not PATHS.search(path.read_text("utf-8"))
    found = [output for cell in cells(path) for output in cell.get("outputs", ())]
    assert len(found) >= 4
    assert any("text/html" in one.get("data", {}) for one in found)
    for one in found:
        assert one["output_type"] != "error"
        if picture := one.get("data", {}).get("image/png"):
            assert len(base64.b64decode(picture)) < FIGURE
    assert cells(path)[0]["cell_type"] == "markdown"
    for target in re.findall(r"\]\((\d[\w-]+\.ipynb)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists()


@pytest.mark.notebooks
@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_its_first_cell_to_its_last(path):
    for needed in ("nbclient", "ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(needed)
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=600, resources={"metadata": {"path": str(path.parent)}})
    client.execute()  # an error of a cell is raised here
    shown = [output for cell in book.cells for output in cell.get("outputs", ()) if "data" in output]
    assert len(shown) >= 4
