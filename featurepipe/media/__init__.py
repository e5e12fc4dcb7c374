"""Media: what images have in common with whatever else may be embedded, such as videos, sounds and texts.

A medium is what a sample is made of. Its `Transform` says how the bytes of a sample become one input of a network: an
array of one shape and type. `MEDIA` says which files hold which medium. The rooms above ask for nothing else, so
extraction does not know what it embeds. What holds for files of every medium is here too: large ones are held in memory
by turns.
"""

from featurepipe.media.registry import IMAGE, MEDIA, Medium, count_media, plural
from featurepipe.media.spans import span_name, span_of
from featurepipe.media.transforms import Transform
from featurepipe.media.turns import FREE, Turns, file_turn

__all__ = [
    "FREE",
    "IMAGE",
    "MEDIA",
    "Medium",
    "Transform",
    "Turns",
    "count_media",
    "file_turn",
    "plural",
    "span_name",
    "span_of",
]
