"""What stages return: dicts that show themselves as a small table, and that can be a DataFrame."""

from featurepipe.results.faces import FACES
from featurepipe.results.result import StageResult, presented
from featurepipe.results.tables import Face, to_frame

__all__ = ["FACES", "Face", "StageResult", "presented", "to_frame"]
