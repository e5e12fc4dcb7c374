"""scikit-learn faces: `FeatureExtractor` (samples → embeddings), `TransferClassifier` (samples → classes), and
`FineTuner` (images → classes).

X is a list or column of samples, or a table of one column. Of every medium, a sample may be a file: its path, its bytes
(also in `io.BytesIO`, or as Hugging Face's ``{"bytes": …, "path": …}``). Besides,

- an image is a PIL image or a uint8 array of shape (H, W) or (H, W, 3). X may be one array (n, H, W) or (n, H, W, 3);
  of grey images 3 or 4 pixels wide, (n, H, W, 1), since (n, H, 3) may be one image in colour;
- a sound is an array of one channel (samples,), float of -1…1 or int16, with `sample_rate`; or as Hugging Face's
  ``{"array": …, "sampling_rate": …}``. X may be one array (n, samples);
- a text is a str; a file of text is a `pathlib.Path`.

Every file is one sample: clips as samples are for the command line and `featurepipe.extract`, since rows of X and of y
belong together. Networks are made when they are first needed, shared by all estimators of a process, and stay out of
pickles and clones; only a `FineTuner` keeps the network that it has tuned.
"""

from featurepipe.estimators.classifier import TransferClassifier
from featurepipe.estimators.extractor import FeatureExtractor
from featurepipe.estimators.tuner import FineTuner

__all__ = ["FeatureExtractor", "FineTuner", "TransferClassifier"]
