import inspect

import pytest

from featurepipe import errors

MEMBERS = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", MEMBERS, ids=lambda error: error.__name__)
def test_every_error_is_ours_documented_and_carries_its_message(error):
    assert issubclass(error, errors.FeaturepipeError)
    assert error.__doc__
    assert error.__name__ in errors.__doc__
    assert str(error("which thing, and why")) == "which thing, and why"


@pytest.mark.parametrize(
    ("error", "standard"),
    [
        (errors.ManifestError, ValueError),
        (errors.SampleError, ValueError),
        (errors.ImageError, ValueError),
        (errors.ImageError, errors.SampleError),
        (errors.BackboneError, ValueError),
        (errors.WeightsUnavailable, OSError),
        (errors.OutOfMemory, MemoryError),
        (errors.OutOfMemory, errors.BackboneError),
        (errors.StoreError, OSError),
        (errors.ShardCorrupt, OSError),
        (errors.FingerprintMismatch, ValueError),
        (errors.FormatTooNew, ValueError),
        (errors.ProbeError, ValueError),
        (errors.ComparisonError, ValueError),
        (errors.ModelFileError, ValueError),
        (errors.DependencyMissing, ImportError),
    ],
)
def test_errors_are_caught_as_the_standard_type_a_caller_would_guess(error, standard):
    with pytest.raises(standard):
        raise error("x")
