"""Pretexts. A new one is a file here, and a line below."""

from featurepipe.pretraining.objectives.autoencoder import Autoencoder
from featurepipe.pretraining.objectives.colorization import Colorize
from featurepipe.pretraining.objectives.contrastive import Contrastive
from featurepipe.pretraining.objectives.distillation import Distill
from featurepipe.pretraining.objectives.pretext import Pretext
from featurepipe.pretraining.objectives.sound import Sound
from featurepipe.pretraining.objectives.supervised import Supervised
from featurepipe.pretraining.objectives.vicreg import Vicreg

OBJECTIVES: dict[str, type[Pretext]] = {
    "supervised": Supervised,
    "contrastive": Contrastive,
    "vicreg": Vicreg,
    "autoencoder": Autoencoder,
    "colorize": Colorize,
    "sound": Sound,
    "distill": Distill,
}

__all__ = ["OBJECTIVES", "Pretext"]
