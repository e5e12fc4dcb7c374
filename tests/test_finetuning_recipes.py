"""What a recipe allows, and what it decides by itself."""

import pytest

from featurepipe.errors import FinetuningError
from featurepipe.finetuning import SWITCHES, Recipe


def test_the_defaults_can_be_done():
    Recipe().check()
    assert {"tune", "ema", "mixup", "l2_sp", "seed"} <= set(SWITCHES)


@pytest.mark.parametrize(
    "bad",
    [
        {"tune": "half"},
        {"head": "zero"},
        {"epochs": 0},
        {"head_epochs": -1},
        {"batch_size": 0},
        {"accumulate": 0},
        {"accumulate": 33},
        {"optimizer": "lamb"},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"layer_decay": 0},
        {"layer_decay": 1.1},
        {"weight_decay": -1.0},
        {"warmup": 1.0},
        {"augment": "heavy"},
        {"label_smoothing": 1.0},
        {"label_smoothing": float("nan")},
        {"mixup": -0.1},
        {"clip_grad": -1.0},
        {"ema": 1.0},
        {"l2_sp": -1e-9},
        {"batch_norm": "frozen"},
        {"precision": "fp16"},
        {"class_weight": "even"},
        {"patience": -1},
        {"views": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_what_cannot_be_done_is_named_in_one_line(bad):
    with pytest.raises(FinetuningError) as caught:
        Recipe(**bad).check()
    assert next(iter(bad)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "rate", "quarter", "decay"), [("adamw", 3e-3, 1 / 2, 0.05), ("sgd", 3e-2, 1 / 4, 0.0)]
)
def test_the_learning_rate_goes_with_the_batch_size_unless_it_is_given(optimizer, rate, quarter, decay):
    assert Recipe(optimizer=optimizer, batch_size=256).peak_lr == pytest.approx(rate)
    assert Recipe(optimizer=optimizer, batch_size=64).peak_lr == pytest.approx(rate * quarter)
    assert Recipe(optimizer=optimizer, lr=0.7).peak_lr == 0.7
    assert Recipe(optimizer=optimizer).decay == decay
    assert Recipe(optimizer=optimizer, weight_decay=0.0).decay == 0


@pytest.mark.parametrize(("images", "epochs"), [(10, 100), (320, 50), (800, 20), (50_000, 20)])
def test_few_images_are_seen_more_often(images, epochs):
    assert Recipe().epochs_for(images) == epochs
    assert Recipe(epochs=3).epochs_for(images) == 3
