"""Pretexts. A new one is a file here, and a line below."""

from dataclasses import fields

from featurepipe.errors import PretrainingError
from featurepipe.pretraining.objectives.autoencoder import Autoencoder
from featurepipe.pretraining.objectives.colorization import Colorize
from featurepipe.pretraining.objectives.contrastive import Contrastive
from featurepipe.pretraining.objectives.distillation import Distill
from featurepipe.pretraining.objectives.pretext import Pretext
from featurepipe.pretraining.objectives.sound import Sound
from featurepipe.pretraining.objectives.supervised import Supervised
from featurepipe.pretraining.objectives.vicreg import Vicreg
from featurepipe.vocabulary import PretrainOptions

OBJECTIVES: dict[str, type[Pretext]] = {
    "supervised": Supervised,
    "contrastive": Contrastive,
    "vicreg": Vicreg,
    "autoencoder": Autoencoder,
    "colorize": Colorize,
    "sound": Sound,
    "distill": Distill,
}


def check(how: PretrainOptions) -> None:
    """Raise PretrainingError for an unknown objective, and for options that only other objectives read."""
    if how.objective not in OBJECTIVES:
        raise PretrainingError(f"no objective is called {how.objective!r}; use {', '.join(OBJECTIVES)}")
    defaults = {field.name: field.default for field in fields(how)}
    own = OBJECTIVES[how.objective].reads
    for name in sorted({name for kind in OBJECTIVES.values() for name in kind.reads if name not in own}):
        if getattr(how, name) != defaults[name]:
            readers = " or ".join(objective for objective, kind in OBJECTIVES.items() if name in kind.reads)
            raise PretrainingError(
                f"the objective {how.objective} does not use {name}; leave it out, or choose --objective {readers}"
            )


__all__ = ["OBJECTIVES", "Pretext", "check"]
