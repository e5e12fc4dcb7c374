"""What to label next: which unlabelled samples teach a probe most.

As long as fewer than two classes are known, these are samples that are typical of their surroundings (`typical`);
afterwards those that a probe is unsure of and that are unlike each other (`unsure`). `ORDERS` lists both.
"""

from featurepipe.acquisitions.orders import ORDERS, choose, order_for
from featurepipe.acquisitions.pools import Next, Pool
from featurepipe.acquisitions.typicality import typical
from featurepipe.acquisitions.uncertainty import unsure

__all__ = ["ORDERS", "Next", "Pool", "choose", "order_for", "typical", "unsure"]
