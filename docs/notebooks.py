"""Run the tutorials and keep what they show: `python docs/notebooks.py [FILE …]`. It needs the extra notebook-test.

Warnings, progress bars and times of execution are not kept, so that a file changes only where its text or figures do.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parent / "tutorials"
SHOWN = ("text/plain", "text/html", "image/png")


def run(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of a run in its own folder, by a new kernel."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [kept(one) for one in cell.outputs if is_kept(one)]
    book.metadata = {name: book.metadata[name] for name in ("kernelspec",)}
    return book


def is_kept(output: nbformat.NotebookNode) -> bool:
    """Whether an output says something about the data: no warnings, no widgets."""
    if output.output_type == "stream":
        return output.name == "stdout"
    return any(kind in output.data for kind in SHOWN) and "application/vnd.jupyter.widget-view+json" not in output.data


def kept(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without what other programs would need."""
    if output.output_type != "stream":
        output.metadata = {}
        output.data = {kind: output.data[kind] for kind in SHOWN if kind in output.data}
    return output


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted(TUTORIALS.glob("*.ipynb"))):
        nbformat.write(run(path), path)
        print(path.name, path.stat().st_size)
