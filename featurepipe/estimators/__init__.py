"""scikit-learn faces: `FeatureExtractor` (images → embeddings); `TransferClassifier`, `FineTuner` (images → classes).

An image is a path, a PIL image or a uint8 array of shape (H, W) or (H, W, 3); X is a list of them, or one array
(n, H, W) or (n, H, W, 3). Networks are made when they are first needed and stay out of pickles and clones; only a
`FineTuner` keeps the network that it has tuned.
"""

from featurepipe.estimators.classifier import TransferClassifier
from featurepipe.estimators.extractor import FeatureExtractor
from featurepipe.estimators.tuner import FineTuner

__all__ = ["FeatureExtractor", "FineTuner", "TransferClassifier"]
