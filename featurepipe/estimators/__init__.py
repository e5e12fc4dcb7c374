"""scikit-learn faces: `FeatureExtractor` (images → embeddings); `TransferClassifier`, `FineTuner` (images → classes).

An image is a path, a file's bytes (also in `io.BytesIO`, or as Hugging Face's ``{"bytes": …, "path": …}``), a PIL image
or a uint8 array of shape (H, W) or (H, W, 3). X is a list or column of them, a table of one column, or one array
(n, H, W) or (n, H, W, 3); of grey images 3 or 4 pixels wide, (n, H, W, 1), since (n, H, 3) may be one image in colour.
Networks are made when they are first needed, shared by all estimators of a process, and stay out of pickles and clones;
only a `FineTuner` keeps the network that it has tuned.
"""

from featurepipe.estimators.classifier import TransferClassifier
from featurepipe.estimators.extractor import FeatureExtractor
from featurepipe.estimators.tuner import FineTuner

__all__ = ["FeatureExtractor", "FineTuner", "TransferClassifier"]
