"""Texts: what is read, and what is refused by name."""

import numpy as np
import pytest

from featurepipe.errors import SampleError, TextError
from featurepipe.media import Transform
from featurepipe.texts import TextTransform, words


def test_a_text_is_an_input_without_axes():
    transform: Transform = TextTransform()
    found = transform.decode("\ufeffnaïve\n".encode())
    assert (found.shape, found.dtype, found.item()) == ((), np.dtype(object), "naïve\n")
    trial = transform.trial(5)
    assert (trial.shape, trial.dtype, trial[0]) == ((5,), np.dtype(object), trial[3])


@pytest.mark.parametrize(
    ("data", "part", "message"),
    [
        (b"", None, "the text is empty"),
        (b"\xef\xbb\xbf \n\t", None, "the text is empty"),
        (b"caf\xe9", None, r"not UTF-8 \(byte 0xe9 at 3\)"),
        ("text".encode("utf-16"), None, r"not UTF-8 \(byte 0xff at 0\)"),
        (b"a" * (2**20 + 1), None, r"has 1,048,577 bytes"),
        (b"a", "1,2,3,4", r"has no parts"),
    ],
)
def test_what_is_no_text_is_refused(data, part, message):
    with pytest.raises(TextError, match=message) as caught:
        TextTransform().decode(data, part)
    assert isinstance(caught.value, SampleError)


def test_words_keep_their_apostrophes_and_marks_stand_alone():
    assert words("“It’s” 3.5 naïve_ones\n\t–  don't'") == [*"“", "It’s", *"”3.5", "naïve_ones", "–", "don't", "'"]
