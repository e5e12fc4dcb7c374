"""Scratch files: all of their space is taken at once, also where a file system cannot promise any."""

import errno
import os

import numpy as np
import pytest

from featurepipe.errors import StoreError
from featurepipe.matrices import scratch


def unable(file, start, size):
    raise OSError(errno.EOPNOTSUPP, "not here")


@pytest.mark.parametrize("promises", [True, False])
def test_space_is_taken_at_once(promises, tmp_path, monkeypatch, limited_file_size):
    if not promises:
        monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
        monkeypatch.setattr(scratch, "ZEROS", bytes(1000))
    made = scratch.scratch(tmp_path / "new", (50, 41), "float64")
    assert (made.shape, made.dtype, made.any()) == ((50, 41), np.float64, False)
    made[:] = np.arange(41)
    assert (made[49] == np.arange(41)).all()
    assert scratch.scratch(tmp_path, (3, 5), "uint8").nbytes == 15
    with limited_file_size(10_000), pytest.raises(StoreError, match=r"no room for masks in .*16\.4 kB.*make room"):
        scratch.scratch(tmp_path, (50, 41), "float64", "masks")
