"""Which order fits what is known."""

from __future__ import annotations

from featurepipe.acquisitions.pools import Next, Order, Pool
from featurepipe.acquisitions.typicality import typical
from featurepipe.acquisitions.uncertainty import unsure
from featurepipe.errors import ProbeError

ORDERS: dict[str, Order] = {"typical": typical, "unsure": unsure}


def order_for(pool: Pool) -> str:
    """The name of the order: ``unsure`` as soon as two classes are known."""
    return "unsure" if len(pool.classes) > 1 else "typical"


def choose(pool: Pool, count: int, *, order: str | None = None, seed: int = 0) -> Next:
    """Choose the samples to label next.

    Parameters
    ----------
    pool : Pool
    count : int
        How many; fewer if fewer are free.
    order : {'typical', 'unsure'}, optional
        By default `order_for`.
    seed : int

    Raises
    ------
    ProbeError
        `order` is not one of `ORDERS`, or needs two known classes.
    """
    name = order or order_for(pool)
    if name not in ORDERS:
        raise ProbeError(f"{name!r} is not an order of samples; use one of {', '.join(ORDERS)}")
    if name == "unsure" and len(pool.classes) < 2:
        raise ProbeError("the order unsure needs labels of two classes; label some samples, or use the order typical")
    return ORDERS[name](pool, min(count, int(pool.free.sum())), seed)
