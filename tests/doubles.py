"""Sources that stand in for files, so that a test need not change what the package does with them; and names."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from featurepipe.errors import DependencyMissing
from featurepipe.manifests import read
from featurepipe.probes import KINDS
from featurepipe.sources import Files


def _is_here(kind):
    try:
        kind.check_installed()
    except DependencyMissing:
        return False
    return True


KINDS_HERE = tuple(name for name, kind in KINDS.items() if _is_here(kind))
VECTOR_KINDS = tuple(name for name in KINDS_HERE if KINDS[name].reads == "vectors")


def _nothing(place):
    pass


@dataclass(frozen=True)
class Eventful(Files):
    """Files of which something happens before each is read, and after its digest is taken; it knows which it opened."""

    before: Callable[[str], object] = field(default=_nothing, compare=False)
    after: Callable[[str], object] = field(default=_nothing, compare=False)
    digested: list = field(default_factory=list, compare=False)

    def digest(self, place):
        self.digested.append(Path(place).name)
        found = super().digest(place)
        self.after(place)
        return found

    def read(self, place):
        self.before(place)
        self.digested.append(Path(place).name)
        return super().read(place)


def eventful_manifest(folder):
    """The manifest of a folder, whose source knows which digests it took."""
    return replace(read(folder), source=Eventful(str(folder)))


def eventful(plan, before):
    """The same plan, with what happens before a place is read."""
    source = Eventful(before=before)
    return [pending._replace(source=source) for pending in plan]
