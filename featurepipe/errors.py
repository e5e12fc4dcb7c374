"""Every error featurepipe raises on purpose.

The tree (each member also inherits the standard type a caller would guess)::

    FeaturepipeError
    ├── ManifestError (ValueError)        samples, labels or splits that cannot be used
    ├── SampleError (ValueError)          bytes that cannot become an input of a network, whatever their medium
    │   ├── ImageError                    bytes that cannot become pixels
    │   ├── SoundError                    bytes that cannot become a spectrogram
    │   ├── TextError                     bytes that are not a text
    │   └── VideoError                    bytes that cannot become frames
    ├── BackboneError (ValueError)        an architecture, weights file or transform that does not fit
    │   ├── WeightsUnavailable (OSError)  weights that could not be downloaded or found
    │   └── OutOfMemory (MemoryError)     a device too small for that many images at once
    ├── StoreError (OSError)              a store that cannot be opened, is busy, or lacks rows
    │   ├── ShardCorrupt                  a shard whose content does not match its own checksums
    │   ├── ShardUnreadable               a shard that the system does not give out now; its content may be sound
    │   └── StoreReadOnly                 a store that can be read and not written
    ├── OutputError (OSError)             a result that cannot be written, or would replace what it must not
    ├── FingerprintMismatch (ValueError)  vectors of one backbone offered where another's are needed
    ├── FormatTooNew (ValueError)         a file written by a later featurepipe
    ├── ProbeError (ValueError)           data that no probe can be fitted or evaluated on
    ├── FinetuningError (ValueError)      a recipe, model or data that no network can be tuned with
    │   └── TrainingDiverged (ArithmeticError)  a loss that is not finite any more
    ├── PretrainingError (ValueError)     data, an objective or options that no network can be pretrained with
    ├── SegmentationError (ValueError)    masks and tokens that a segmentation cannot be learned from or measured on
    ├── ComparisonError (ValueError)      stores or tables that cannot be compared
    ├── ModelFileError (ValueError)       a file that is not a featurepipe model
    ├── RepositoryError (OSError)         a repository of a hub that cannot be found, read or written
    └── DependencyMissing (ImportError)   an optional library that is not installed

Messages say which thing, why, and what to do next, on one line.
"""


class FeaturepipeError(Exception):
    """Base of all errors raised by featurepipe."""


class ManifestError(FeaturepipeError, ValueError):
    """Samples, labels or splits cannot be used as given."""


class SampleError(FeaturepipeError, ValueError):
    """The bytes of a sample cannot be turned into an input of a network."""


class ImageError(SampleError):
    """Bytes cannot be turned into pixels."""


class SoundError(SampleError):
    """Bytes cannot be turned into a spectrogram."""


class TextError(SampleError):
    """Bytes cannot be read as a text."""


class VideoError(SampleError):
    """Bytes cannot be turned into the frames of a video."""


class BackboneError(FeaturepipeError, ValueError):
    """An architecture, its arguments, weights or transform do not fit together."""


class WeightsUnavailable(BackboneError, OSError):
    """Pretrained weights could not be downloaded or found."""


class OutOfMemory(BackboneError, MemoryError):
    """The device has too little memory for that many images at once."""


class StoreError(FeaturepipeError, OSError):
    """A store cannot be opened, is in use, or does not hold what was asked."""


class ShardCorrupt(StoreError):
    """A shard's content does not match its own checksums or its format."""


class ShardUnreadable(StoreError):
    """A shard is locked by another program, may not be read, or lies on a disk that fails: nothing says it is wrong."""


class StoreReadOnly(StoreError):
    """A store can be read, but this process may not write into it."""


class OutputError(FeaturepipeError, OSError):
    """A result cannot be written where it should go, or would replace a file that it must not."""


class FingerprintMismatch(FeaturepipeError, ValueError):
    """Vectors of one backbone were offered where another's are needed."""


class FormatTooNew(FeaturepipeError, ValueError):
    """A file was written by a later featurepipe than this one."""


class ProbeError(FeaturepipeError, ValueError):
    """No probe can be fitted or evaluated on this data."""


class FinetuningError(FeaturepipeError, ValueError):
    """No network can be tuned in this way, from this model or on this data."""


class TrainingDiverged(FinetuningError, ArithmeticError):
    """The loss of a network that is tuned is not finite any more."""


class PretrainingError(FeaturepipeError, ValueError):
    """No network can be pretrained for this objective, with these options or on this data."""


class SegmentationError(FeaturepipeError, ValueError):
    """Masks and tokens that a segmentation cannot be learned from, or not be measured on."""


class ComparisonError(FeaturepipeError, ValueError):
    """Stores, their entries or tables of figures cannot be compared."""


class ModelFileError(FeaturepipeError, ValueError):
    """A file is not a featurepipe model, or is damaged."""


class DependencyMissing(FeaturepipeError, ImportError):
    """An optional library is needed and not installed."""


class RepositoryError(FeaturepipeError, OSError):
    """A repository of a hub cannot be found, read or written."""
