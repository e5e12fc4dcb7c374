"""Sources: where the bytes of samples are.

A sample has a *place*, which its source knows how to read: a path below a folder, a name in memory. What a new kind of
source has to do is in `Source`. `SOURCES` makes one again from the root that a store has recorded; what lies in memory
alone is not among them.
"""

from collections.abc import Callable

from featurepipe.sources.files import Files
from featurepipe.sources.memory import InMemory
from featurepipe.sources.source import NO_STAMP, Content, Source, Stamp, lasting_root
from featurepipe.sources.tables import Tables, cell

# what makes a source of its root, by its kind
SOURCES: dict[str, Callable[[str], Source]] = {Files.kind: Files, Tables.kind: Tables}

__all__ = ["NO_STAMP", "SOURCES", "Content", "Files", "InMemory", "Source", "Stamp", "Tables", "cell", "lasting_root"]
