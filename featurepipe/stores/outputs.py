"""Results that are made of stores: they never replace what the stores are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from featurepipe import manifests, tables
from featurepipe.errors import OutputError
from featurepipe.files import check_output
from featurepipe.stores import Store

OWN = ("store.json", "manifest.csv", "rejects.csv")  # files of a store next to its entries


def check_result(
    path: Path,
    what: str,
    is_ours: Callable[[Path], bool],
    stores: list[Store],
    inputs: tuple[str | Path | None, ...] = (),
    *,
    force: bool,
) -> None:
    """`featurepipe.files.check_output` of a result that is made of stores: their own files are inputs.

    So may be the table that a store was made of, whose name it does not keep: any table in the folder that its paths
    start from may be this one, unless it is a result itself.
    """
    for store in stores:
        if _is_table_in(path, store.root) and manifests.header(path) and not is_ours(path):
            raise OutputError(
                f"{path} may be the table that {store.path} was made of, and the {what} would replace it; "
                "give another name with -o"
            )
    own = (file for store in stores for file in _files(store))
    check_output(path, what, is_ours, [*inputs, *own], force=force)


def _files(store: Store) -> Iterator[Path]:
    """What a store is read from."""
    yield from (store.path / name for name in OWN)
    yield from store.path.glob("*/shard-*.h5")


def _is_table_in(path: Path, folder: Path | None) -> bool:
    """Whether there is a table at `path`, directly in a folder."""
    there = path.suffix.lower() in tables.TABLE_SUFFIXES and path.is_file()
    return there and folder is not None and folder.is_dir() and path.absolute().parent.samefile(folder)
