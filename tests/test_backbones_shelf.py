"""Backbones that a process keeps: what counts as the same, and what is never given away twice."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from featurepipe import backbones
from featurepipe.backbones.shelf import Identity, Shelf
from featurepipe.errors import WeightsUnavailable

SMALL = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
OPTIONS = {"name": "test_resnet", **SMALL}


class Made(list):
    """Counts the networks that are made, and may say what happens then."""

    then = staticmethod(lambda: None)
    create = staticmethod(backbones.create)

    def __call__(self, *given, **options):
        self.append(given)
        backbone = self.create(*given, **options)
        self.then()
        return backbone


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def weights(tmp_path):
    """Writes weights of a network into a file, by seed, as if that had been an hour ago."""

    def write(seed, *, settled=True):
        module = backbones.create("test_resnet", **SMALL, seed=seed).module
        path = tmp_path / "w.safetensors"
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
        if settled:
            os.utime(path, (time.time() - 3600,) * 2)
        return path

    return write


def test_the_same_parameters_give_the_same_object_and_others_another(made):
    kept = Shelf(make=made)
    first = kept.fetch(**OPTIONS)
    assert kept.fetch(**OPTIONS) is first
    assert kept.identify(**OPTIONS) is first
    assert len(made) == 1
    for changed in ({"seed": 1}, {"layer": "stage1"}, {"pooling": "max"}, {"transform": {"input_size": (3, 64, 64)}}):
        assert kept.fetch(**{**OPTIONS, **changed}).fingerprint != first.fingerprint
    assert len(made) == 5


def test_auto_is_kept_under_the_precision_that_it_comes_to(made, machine):
    machine(bf16=False)
    kept = Shelf(make=made)
    first = kept.fetch(**OPTIONS)
    assert kept.fetch(**OPTIONS, precision="fp32") is first
    assert kept.fetch(**OPTIONS, precision="bf16").spec["precision"] == "bf16"
    assert len(made) == 2


def test_few_are_kept_and_of_more_it_is_known_what_they_are(made, machine):
    machine(bf16=False)
    kept = Shelf(kept=1, make=made)
    first = kept.fetch(**OPTIONS)
    kept.fetch(**OPTIONS, seed=1)
    known = kept.identify(**OPTIONS)
    assert isinstance(known, Identity)
    assert len(made) == 2
    for field in ("name", "spec", "source", "transform", "width", "device", "fingerprint"):
        assert getattr(known, field) == getattr(first, field)
    assert kept.identify(**OPTIONS, precision="fp32") is known
    assert kept.identify(**OPTIONS, precision="bf16").spec["precision"] == "bf16"
    kept.clear()
    assert kept.identify(**OPTIONS).fingerprint == first.fingerprint
    assert len(made) == 4


def test_a_weights_file_counts_by_its_content_and_not_by_its_name(made, weights):
    kept = Shelf(make=made)
    options = {**OPTIONS, "random_weights": False, "weights": weights(0)}
    first = kept.fetch(**options)
    assert kept.fetch(**options) is first
    weights(1)
    assert kept.identify(**options).fingerprint != first.fingerprint
    assert kept.fetch(**options).fingerprint != first.fingerprint


def test_a_relative_path_means_another_file_in_another_folder(weights, tmp_path, monkeypatch):
    kept = Shelf()
    weights(0)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {**OPTIONS, "random_weights": False, "weights": "w.safetensors"}
    kept.fetch(**options)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(WeightsUnavailable, match="does not exist"):
        kept.fetch(**options)


def test_what_is_made_of_a_file_that_has_just_been_written_is_not_kept(made, weights):
    kept = Shelf(make=made)
    options = {**OPTIONS, "random_weights": False, "weights": weights(0, settled=False)}
    kept.fetch(**options)
    kept.fetch(**options)  # a change in the same tick of the clock would not show
    assert len(made) == 2


def test_what_is_made_while_its_file_changes_is_not_kept(made, weights):
    kept = Shelf(make=made)
    options = {**OPTIONS, "random_weights": False, "weights": weights(0)}
    made.then = lambda: weights(1)
    old = kept.fetch(**options)
    made.then = lambda: None
    assert kept.fetch(**options).fingerprint != old.fingerprint


@pytest.mark.parametrize("place", ["parameter", "data"])
def test_a_network_that_somebody_has_changed_is_not_given_away_again(made, place):
    kept = Shelf(make=made)
    first = kept.fetch(**OPTIONS)
    changed = next(first.module.parameters())
    with torch.no_grad():
        (changed if place == "parameter" else changed.data).add_(1)  # the latter leaves its version as it is
    second = kept.fetch(**OPTIONS)
    assert second is not first
    pixels = np.zeros((1, 3, 32, 32), np.uint8)
    np.testing.assert_array_equal(second.embed(pixels), backbones.create(**OPTIONS).embed(pixels))
    first = second
    first.module.train()  # `embed` puts that right by itself
    assert kept.fetch(**OPTIONS) is first


def test_a_network_asked_for_in_inference_mode_could_be_tuned(made):
    kept = Shelf(make=made)
    with torch.inference_mode():
        kept.fetch(**OPTIONS)
    found = kept.fetch(**OPTIONS)
    assert not any(tensor.is_inference() for tensor in found.module.parameters())


@pytest.mark.parametrize("options", [{"name": "test_resnet", "arguments": {"odd": {1, 2}}}, {"name": object()}])
def test_what_cannot_be_told_apart_is_left_to_create(made, options):
    made.create = lambda *given, **others: backbones.Pixels()
    kept = Shelf(make=made)
    kept.fetch(**options)
    kept.fetch(**options)
    assert len(made) == 2


def test_threads_that_ask_at_once_get_one_network(made):
    kept, found = Shelf(make=made), []
    threads = [threading.Thread(target=lambda: found.append(kept.fetch(**OPTIONS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == len(made) == 1


def test_a_child_begins_anew_even_if_its_parent_held_the_lock(made):
    kept = Shelf(make=made)
    kept.fetch(**OPTIONS)
    with kept._lock:  # by another thread, in the parent
        kept.after_fork()
        assert kept.fetch(**OPTIONS).fingerprint
    assert len(made) == 2
