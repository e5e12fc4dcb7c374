"""Crews: who embeds a plan.

`CREWS` lists those that have a name, which users may choose (``--crew``). Lanes and processes follow from the devices.
"""

from __future__ import annotations

from collections.abc import Callable

from featurepipe.errors import BackboneError
from featurepipe.extraction.crews.clusters import Ray
from featurepipe.extraction.crews.crew import Crew, Lanes, Processes, Settings, Streaming, fill

__all__ = ["CREWS", "Crew", "Lanes", "Processes", "Ray", "Settings", "Streaming", "fill", "named_crew"]

CREWS: dict[str, Callable[[str | None, float | None], Crew]] = {"ray": Ray}


def named_crew(name: str | None, gpus: float | None = None) -> Crew | None:
    """The crew of a name, which may have an address: ``ray``, ``ray://head:10001``; None for None.

    Parameters
    ----------
    name : str or None
    gpus : float, optional
        GPUs of each actor.

    Raises
    ------
    BackboneError
        There is none of that name, `gpus` without a crew, or a number of GPUs that no actor can have.

    Examples
    --------
    >>> named_crew("ray://head:10001", 0.5)
    Ray(address='ray://head:10001', gpus=0.5)
    """
    if name is None:
        if gpus is not None:
            raise BackboneError("GPUs per actor need a crew of actors; name it, as in --crew ray, or leave them out")
        return None
    kind, _, place = name.partition("://")
    if kind not in CREWS:
        raise BackboneError(f"crew {name!r} is unknown; choose one of {', '.join(CREWS)}, or leave it out")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise BackboneError(f"an actor cannot have {gpus:g} GPUs; give a share of one, such as 0.5, or a whole number")
    return CREWS[kind](name if place else None, gpus)
