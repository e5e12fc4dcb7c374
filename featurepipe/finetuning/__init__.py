"""Promotion: a probe becomes the head of a network that is tuned with it, and starts exactly where the probe stopped.

Linear probing, then fine-tuning (LP-FT): Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution*, ICLR 2022.
"""

from featurepipe.finetuning.batches import Examples, PixelBatches, Step
from featurepipe.finetuning.cached.batches import CachedBatches, make_cache, why_not
from featurepipe.finetuning.choices import better, duel, expected_gain, expected_share, is_behind, pays
from featurepipe.finetuning.depths import ALL, AUTO, HEAD, check_depth, layers_of, trainable
from featurepipe.finetuning.heads import (
    LINEAR,
    Head,
    gentle_strength,
    head_estimator,
    linear_head,
    random_head,
    starting_head,
)
from featurepipe.finetuning.loop import FAILED, INTERRUPTED, Batches, Course, Session, tune
from featurepipe.finetuning.networks import Forward, Network
from featurepipe.finetuning.objectives import Classes, Objective
from featurepipe.finetuning.peers import Peers, joined
from featurepipe.finetuning.promotion import (
    Cache,
    Cached,
    Promoted,
    check_family,
    check_tunable,
    promote,
    refit_recipe,
    refitted,
)
from featurepipe.finetuning.recipes import PROBE, RANDOM, SWITCHES, Recipe
from featurepipe.finetuning.trainees import Trainee

__all__ = [
    "ALL",
    "AUTO",
    "FAILED",
    "HEAD",
    "INTERRUPTED",
    "LINEAR",
    "PROBE",
    "RANDOM",
    "SWITCHES",
    "Batches",
    "Cache",
    "Cached",
    "CachedBatches",
    "Classes",
    "Course",
    "Examples",
    "Forward",
    "Head",
    "Network",
    "Objective",
    "Peers",
    "PixelBatches",
    "Promoted",
    "Recipe",
    "Session",
    "Step",
    "Trainee",
    "better",
    "check_depth",
    "check_family",
    "check_tunable",
    "duel",
    "expected_gain",
    "expected_share",
    "gentle_strength",
    "head_estimator",
    "is_behind",
    "joined",
    "layers_of",
    "linear_head",
    "make_cache",
    "pays",
    "promote",
    "random_head",
    "refit_recipe",
    "refitted",
    "starting_head",
    "trainable",
    "tune",
    "why_not",
]
