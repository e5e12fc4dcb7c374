"""Named protocols: published recipes for classifiers on frozen features, each with a version.

`PROTOCOLS` holds what each fixes, and in what our run differs from the published one; `run` follows it. Nothing is
ever selected on what is reported, so where a published recipe takes the best on test, ours does not. Exact copies of
an image count as one where a recipe holds out, folds, leaves out or draws images, and stay together; without copies
the recipe is as published.

Examples
--------
>>> from featurepipe import protocols
>>> protocols.PROTOCOLS["kornblith"].candidates
'C = 1e-05 … 1e+06, 45 values evenly in log'
"""

from featurepipe.protocols.definitions import PROTOCOLS, Protocol
from featurepipe.protocols.evaluations import evaluate
from featurepipe.protocols.outcomes import Result
from featurepipe.protocols.runs import choose_metric, named, run
from featurepipe.protocols.shots import run_shots

__all__ = ["PROTOCOLS", "Protocol", "Result", "choose_metric", "evaluate", "named", "run", "run_shots"]
