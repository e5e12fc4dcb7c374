"""Which files hold which medium."""

from itertools import combinations

from featurepipe.media import IMAGE, MEDIA, count_media
from featurepipe.vocabulary import names


def test_the_command_line_offers_what_there_is():
    assert tuple(MEDIA) == names.MEDIA
    assert IMAGE in MEDIA


def test_no_suffix_is_of_two_media_unless_it_is_asked_for():
    for one, other in combinations(MEDIA.values(), 2):
        assert not one.suffixes & other.suffixes
        assert not one.suffixes & one.also


def test_files_of_no_medium_do_not_count():
    assert count_media([".txt", "", ".wav", ".jpg", ".wav"]) == {"sound": 2, "image": 1}
