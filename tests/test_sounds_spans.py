"""Parts of a sound."""

import pytest

from featurepipe.errors import SoundError
from featurepipe.sounds import span_name, span_of


@pytest.mark.parametrize("span", [(0, 4), (12, 16.5), (0.1, 0.35), (1.2345, 3)])
def test_a_name_is_read_as_it_was_written_to_the_millisecond(span):
    assert span_of(span_name(*span), 60) == pytest.approx(span, abs=5e-4)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("1,2,3,4", "is not a span"),
        ("2-1", "is empty"),
        ("1.0-1.0", "is empty"),
        ("0-61", "reaches beyond the end of the sound, which has 60.000 s"),
        ("-1-2", "is not a span"),
        ("nan-2", "is not a span"),
    ],
)
def test_what_is_no_span_inside_of_the_sound_is_refused(part, says):
    with pytest.raises(SoundError, match=says):
        span_of(part, 60)
