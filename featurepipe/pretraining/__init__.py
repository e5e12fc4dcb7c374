"""Pretraining: a network learns to see by a pretext, and becomes a backbone file that every command takes.

What an objective is asked is a file in `featurepipe.pretraining.objectives`; all of them train on the one loop of
`featurepipe.finetuning`, with its checkpoints, moving averages, smaller pieces where memory is short, several processes
and Ctrl-C.
"""

from featurepipe.pretraining.augmentations import Views
from featurepipe.pretraining.batches import ViewBatches, probed
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.figures import probe_figures
from featurepipe.pretraining.gatherings import Gathered, gather
from featurepipe.pretraining.objectives import OBJECTIVES, Pretext
from featurepipe.pretraining.pictures import Pictures
from featurepipe.pretraining.plans import Plan
from featurepipe.pretraining.pupils import Pupil

__all__ = [
    "OBJECTIVES",
    "Body",
    "Gathered",
    "Pictures",
    "Plan",
    "Pretext",
    "Pupil",
    "ViewBatches",
    "Views",
    "gather",
    "probe_figures",
    "probed",
]
