"""Advice: what to do with this much data, this far from the pretraining, by evidence from the cache alone.

The table of Stanford's lectures (CS231n, "Transfer learning") knows four cells:

=====  ==================================  ===================================
data   similar to the pretraining          different from it
=====  ==================================  ===================================
small  a linear probe on the last layer    a linear probe on an earlier stage
large  tune the last blocks                tune the whole network
=====  ==================================  ===================================

`measure` says from embeddings and labels which cell data are in, and how much there is to gain; `decide` makes advice
of that evidence, by rules of a dozen constants that are listed with their reasons in `featurepipe.advice.rules`.

Examples
--------
>>> from featurepipe import advice
>>> rng = np.random.default_rng(0)
>>> y = np.arange(200) % 4
>>> X = rng.normal(size=(200, 16)) + 5 * np.eye(16)[y]
>>> evidence = {**advice.count(y), **advice.measure({"penultimate": X}, y)}
>>> found = advice.decide(evidence)
>>> found["option"], found["cell"]["size"], found["cell"]["similarity"]
('linear', 'small', 'similar')
"""

from featurepipe.advice.costs import minutes
from featurepipe.advice.curves import label_curve
from featurepipe.advice.evidence import count, is_masked, measure
from featurepipe.advice.rules import FITTED, OPTIONS, TABLE, Constants, decide, in_words

__all__ = [
    "FITTED",
    "OPTIONS",
    "TABLE",
    "Constants",
    "count",
    "decide",
    "in_words",
    "is_masked",
    "label_curve",
    "measure",
    "minutes",
]
