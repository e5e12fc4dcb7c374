"""How a sample is shown on a page that needs no other file: a small picture, a sound that can be played, a few words.

`LOOKS` says for each medium how it is done. Pages, and whoever makes them, ask for nothing else.
"""

from featurepipe.reports.looks.images import IMAGES
from featurepipe.reports.looks.look import BUDGET, Look, Way, jpeg, show
from featurepipe.reports.looks.sounds import SOUNDS
from featurepipe.reports.looks.texts import TEXTS
from featurepipe.reports.looks.videos import VIDEOS

LOOKS: dict[str, Way] = {"image": IMAGES, "sound": SOUNDS, "text": TEXTS, "video": VIDEOS}

__all__ = ["BUDGET", "LOOKS", "Look", "Way", "jpeg", "show"]
