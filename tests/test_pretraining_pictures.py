"""Pictures of a pretraining: where memory is too small they lie on disk, and a disk that is full is said in a line."""

import numpy as np
import pytest
from ears import Ear

from featurepipe.errors import StoreError
from featurepipe.images import ImageTransform
from featurepipe.pretraining.pictures import decode

HELD = ImageTransform((3, 32, 32), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


def test_pictures_on_disk_are_those_in_memory_and_leave_no_file(planned, tmp_path):
    held, folder = planned(5), tmp_path / "work"
    notes = []
    there, lost = decode(held, HELD, 1, folder, limit=1000, workers=1, listener=Ear(notes.append))
    here, _ = decode(held, HELD, 1, folder, limit=None, workers=1, listener=Ear())
    assert not lost
    np.testing.assert_array_equal(there.numpy(), here.numpy())
    assert "15.4 kB of decoded images do not fit into 1 kB of memory" in notes[0]
    assert not list(folder.iterdir())  # so none is left, either, by a process that is killed


def test_a_full_disk_is_said_before_anything_is_decoded(planned, tmp_path, limited_file_size):
    pending = planned(5)
    with (
        limited_file_size(10_000),
        pytest.raises(StoreError, match=r"no room for decoded images in .*work: they take 15\.4 kB \(.*make room"),
    ):
        decode(pending, HELD, 1, tmp_path / "work", limit=1000, workers=1, listener=Ear())
