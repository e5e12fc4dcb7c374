"""Videos: bytes → the frames of some clips, each frame cropped exactly as an image is.

A frame is chosen by when it is shown, not by its number: rates may vary, and files need not say how long they are.
Frames are turned upright as the file says. What decodes counts, if all the frames that are wanted are there; a video
of which one is missing or broken is refused, and no frame is ever replaced by its neighbour.
"""

from featurepipe.videos.files import duration, require_av
from featurepipe.videos.transforms import VideoTransform

__all__ = ["VideoTransform", "duration", "require_av"]
