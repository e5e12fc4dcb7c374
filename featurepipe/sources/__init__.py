"""Sources: where the bytes of samples are.

A sample has a *place*, which its source knows how to read: a path below a folder, a name in an archive, a row of a
table, a name in memory. What a new kind of source has to do is in `Source`. `SOURCES` makes one again from the root
that a store has recorded; what lies in memory alone is not among them.

A source that says by itself what it holds is a `Container`. `open_container` finds the one for what a user gives, with
the functions in `CONTAINERS`.
"""

from collections.abc import Callable

from featurepipe.sources.containers import Columns, Container, Item, Listing, Opener
from featurepipe.sources.files import Files
from featurepipe.sources.hubs import Hubs, open_hubs
from featurepipe.sources.kept import Kept
from featurepipe.sources.memory import InMemory, sha256_content
from featurepipe.sources.objects import Objects
from featurepipe.sources.parquets import Parquets, open_parquets
from featurepipe.sources.remotes import Remotes, open_remotes
from featurepipe.sources.roots import is_there, is_url, title
from featurepipe.sources.source import NO_STAMP, Content, Source, Stamp, lasting_root
from featurepipe.sources.tables import Tables, cell
from featurepipe.sources.tars import Tars, open_tars
from featurepipe.sources.zips import Zips, open_zips

# what makes a source of its root, by its kind
SOURCES: dict[str, Callable[[str], Source]] = {
    made.kind: made for made in (Files, Tables, Tars, Zips, Parquets, Hubs, Remotes)
}
# what makes a container of what users give, or knows that it is none of its kind
CONTAINERS: list[Opener] = [open_tars, open_zips, open_hubs, open_parquets, open_remotes]


def open_container(data: object) -> Container | None:
    """The container that a path, a pattern, a URL or an object is; None for folders, tables of paths and single files.

    Raises
    ------
    ManifestError
        It looks like one and is not there.
    """
    return next((found for opened in CONTAINERS if (found := opened(data)) is not None), None)


__all__ = [
    "CONTAINERS",
    "NO_STAMP",
    "SOURCES",
    "Columns",
    "Container",
    "Content",
    "Files",
    "Hubs",
    "InMemory",
    "Item",
    "Kept",
    "Listing",
    "Objects",
    "Opener",
    "Parquets",
    "Remotes",
    "Source",
    "Stamp",
    "Tables",
    "Tars",
    "Zips",
    "cell",
    "is_there",
    "is_url",
    "lasting_root",
    "open_container",
    "sha256_content",
    "title",
]
