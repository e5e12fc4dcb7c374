"""Locks of stores: who holds one is told, and nothing of a stranger's is touched."""

import os

import pytest

from featurepipe.errors import StoreError
from featurepipe.stores import Store, locks


def test_the_holder_is_named_and_its_name_follows_no_link(tmp_path):
    store = Store.create(tmp_path / "st").path
    (tmp_path / "precious").write_text("mine")
    (store / locks.HOLDER).symlink_to(tmp_path / "precious")
    with locks.held(store, wait=False):
        assert (tmp_path / "precious").read_text() == "mine"
        assert (store / locks.HOLDER).read_text() == locks.whoami()
        with pytest.raises(StoreError, match=rf"another process \(process {os.getpid()} on "):
            locks.held(store, wait=False).__enter__()
    assert not (store / locks.HOLDER).exists()


def test_a_pipe_in_the_holders_place_is_not_waited_for(tmp_path):
    store = Store.create(tmp_path / "st").path
    os.mkfifo(store / locks.HOLDER)
    with locks.held(store, wait=False):
        assert (store / locks.HOLDER).is_file()
