"""Batches: which images, in which order, under which views."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurepipe.extraction import read_batch
from featurepipe.finetuning import Examples, Peers, PixelBatches, Recipe
from featurepipe.finetuning.batches import epoch_order, in_order
from featurepipe.images import ImageTransform


@pytest.fixture
def make(small, tinted):
    """Factory of batches of 10 pictures, 4 at a time."""
    backbone = small()

    def made(samples=None, workers=2, peers=Peers(), **recipe):  # noqa: B008
        recipe = Recipe(**{"batch_size": 4, "augment": "none", **recipe})
        return PixelBatches(samples or tinted(10), backbone.transform, recipe, "cpu", workers, peers)

    made.transform = backbone.transform
    return made


def pixels(steps):
    return [step.inputs[0].numpy() for step in steps]


def test_an_epoch_takes_every_image_once_with_its_class(make, tinted):
    samples, seen = tinted(10), []
    by_content = {read_batch([one], make.transform).inputs.tobytes(): i for i, one in enumerate(samples.images)}
    for step in make(samples).epoch(1):
        assert step.inputs[0].dtype == torch.uint8
        for picture, target in zip(step.inputs[0].numpy(), step.targets.tolist(), strict=True):
            seen.append(by_content[picture.tobytes()])
            assert target == samples.targets[seen[-1]]
    assert sorted(seen) == list(range(10))
    assert seen == epoch_order(10, 0, 1).tolist()


def test_batches_are_of_the_size_asked_for_but_the_last(make):
    assert [len(step) for step in make().epoch(1)] == [4, 4, 2]


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_seed_and_epoch_decide_order_and_views_whatever_the_number_of_threads(make, augment):
    def of(number=1, workers=1, **recipe):
        return np.concatenate(pixels(make(workers=workers, augment=augment, **recipe).epoch(number)))

    np.testing.assert_array_equal(of(), of(workers=5))
    assert (of() != of(number=2)).any()
    assert (of() != of(seed=1)).any()


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_an_epoch_is_taken_up_in_the_middle(make, augment):
    whole, rest = pixels(make(augment=augment).epoch(3)), pixels(make(augment=augment).epoch(3, 2))
    assert len(rest) == 1
    np.testing.assert_array_equal(whole[2], rest[0])
    assert not pixels(make().epoch(3, 3))


def test_views_differ_from_epoch_to_epoch(make, tinted):
    one = Examples(tinted(1).images, np.zeros(1, np.int64))
    views = {pixels(make(one, augment="standard").epoch(number))[0].tobytes() for number in range(1, 9)}
    assert len(views) == 8


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_and_some_may_get_nothing_of_the_last(make, tinted, world):
    samples = tinted(9)
    whole = list(make(samples).epoch(1))
    shares = [list(make(samples, peers=Peers(rank, world)).epoch(1)) for rank in range(world)]
    for step, *parts in zip(whole, *shares, strict=True):
        together = np.concatenate(pixels(parts))
        assert sorted(map(bytes, together)) == sorted(map(bytes, step.inputs[0].numpy()))
        assert sum(len(part) for part in parts) == len(step)
    assert [len(share[-1]) for share in shares] == [1] + [0] * (world - 1)
    assert shares[-1][-1].inputs[0].shape == (0, 3, 32, 32)


def test_an_image_that_is_gone_is_left_out_with_its_class(make, planned, tmp_path):
    plan = planned(6)
    samples = Examples(plan, np.arange(6))
    wanted = {target: picture.tobytes() for target, picture in told(make(samples))}
    Path(plan[2].place).unlink()
    Path(plan[4].place).write_bytes(Path(plan[5].place).read_bytes())  # its content is another's now
    batches = make(samples)
    assert {target: picture.tobytes() for target, picture in told(batches)} == {
        target: picture for target, picture in wanted.items() if target not in (2, 4)
    }
    lost = {digest: why for step in batches.epoch(1) for digest, why in step.lost.items()}
    assert lost.keys() == {plan[2].digest, plan[4].digest}
    assert "No such file" in lost[plan[2].digest]
    assert "content has just changed" in lost[plan[4].digest]


def told(batches):
    return [
        (target, picture)
        for step in batches.epoch(1)
        for target, picture in zip(step.targets.tolist(), step.inputs[0].numpy(), strict=True)
    ]


def test_for_validation_all_come_once_in_order_as_the_probe_saw_them(make, tinted):
    samples, transform = tinted(10), make.transform
    steps = list(in_order(samples, transform, 4, "cpu", 2, Peers()))
    np.testing.assert_array_equal(np.concatenate(pixels(steps)), read_batch(samples.images, transform).inputs)
    assert torch.cat([step.targets for step in steps]).tolist() == samples.targets.tolist()


def test_without_augmentation_training_pixels_are_the_probes_too(make, tinted):
    samples = tinted(10)
    seen = np.concatenate(pixels(make(samples).epoch(1)))
    order = epoch_order(10, 0, 1)
    np.testing.assert_array_equal(seen, read_batch([samples.images[i] for i in order], make.transform).inputs)


def test_who_stops_early_leaves_no_thread_behind(make):
    import threading

    before = threading.active_count()
    steps = make(workers=3).epoch(1)
    next(steps)
    steps.close()
    assert threading.active_count() == before


def test_a_greyscale_backbone_gets_one_channel(make, tinted):
    transform = replace(make.transform, input_size=(1, 32, 32), mean=(0.5,), std=(0.5,))
    batches = PixelBatches(tinted(3), transform, Recipe(batch_size=3), "cpu", 1)
    assert next(iter(batches.epoch(1))).inputs[0].shape == (3, 1, 32, 32)


@pytest.mark.parametrize(("norm", "wanted"), [("train", [4, 4]), ("eval", [4, 4, 1])])
def test_batch_norms_that_follow_batches_are_spared_a_single_image(tinted, norm, wanted):
    recipe = Recipe(batch_size=4, augment="none", batch_norm=norm)
    transform = ImageTransform((3, 8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0)
    assert [len(step) for step in PixelBatches(tinted(9), transform, recipe, "cpu", 1).epoch(1)] == wanted
