"""`StageResult`: the dict that a stage returns, which shows itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from featurepipe.results.faces import FACES
from featurepipe.results.tables import Face, html, text, to_frame

P = ParamSpec("P")


class StageResult(dict[str, Any]):
    """What a stage returns: a dict with a table for a face.

    It is an ordinary dict: ``result["test"]["top1"]``, ``json.dumps(result)`` and ``dict(result)`` work. In a terminal
    and in a notebook it shows a small table of what counts. A result without the keys that its table needs shows as a
    dict.

    Parameters
    ----------
    said : mapping
    verb : str
        The stage: a key of `featurepipe.results.FACES`.

    Examples
    --------
    >>> made = StageResult({"store": "s", "output": "x.npz", "backbone": "vit", "rows": 2, "width": 3}, "export")
    >>> made
    2 × 3 embeddings of vit → x.npz
    keys: store, output, backbone, rows, width
    >>> made["rows"], made == {**made}
    (2, True)
    """

    def __init__(self, said: Mapping[str, Any] = {}, verb: str = "") -> None:  # only read
        super().__init__(said)
        self.verb = verb

    @property
    def face(self) -> Face | None:
        """What is shown; None where keys are missing, or the verb is none of `FACES`."""
        try:
            return FACES[self.verb](self)
        except (LookupError, TypeError, ValueError):  # keys or rows were taken away, or there is nothing to say
            return None

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame, with all of its rows and the figures as numbers.

        Raises
        ------
        DependencyMissing
            pandas is not installed.
        """
        face = self.face
        return to_frame(Face("", [self]) if face is None else face)

    def __repr__(self) -> str:
        face = self.face
        return super().__repr__() if face is None else text(face, self)

    def _repr_html_(self) -> str | None:
        face = self.face
        return None if face is None else html(face, self)


def presented(stage: Callable[P, dict[str, Any]]) -> Callable[P, StageResult]:
    """A stage whose result shows itself, with the face that has its name."""

    @functools.wraps(stage)
    def called(*args: P.args, **kwargs: P.kwargs) -> StageResult:
        return StageResult(stage(*args, **kwargs), stage.__name__)

    return called
