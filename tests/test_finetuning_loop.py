"""The training loop, trick by trick; and that it ends, fails and goes on as it should."""

import math
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ears import Ear
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from featurepipe.digests import sha256_json
from featurepipe.errors import FinetuningError, OutOfMemory, TrainingDiverged
from featurepipe.finetuning import (
    FAILED,
    INTERRUPTED,
    Examples,
    Network,
    Peers,
    PixelBatches,
    Recipe,
    better,
    checkpoints,
    loop,
    random_head,
    tune,
)
from featurepipe.finetuning.batches import in_order
from featurepipe.finetuning.objectives import Classes
from featurepipe.sources import InMemory

QUICK = {"epochs": 3, "batch_size": 8, "lr": 3e-3, "augment": "none", "patience": 0}


@pytest.fixture
def tuning(small, tinted):
    """Factory of a run that has not begun: its network, and a function that tunes it."""

    def make(name="test_resnet", arguments=None, samples=None, classes=3, validation=None, **recipe):
        recipe = Recipe(**{**QUICK, **recipe})
        recipe.check()
        backbone = small(name, **(arguments or {}))
        weight, bias = random_head(classes, backbone.width, 0)
        network = Network(backbone, 30 * weight, bias, recipe)  # small heads learn slowly, and would hide differences
        batches = PixelBatches(samples or tinted(20, classes), backbone.transform, recipe, "cpu", 1)
        held = validation or tinted(12, classes, seed=1)

        def validating():
            return in_order(held, backbone.transform, 64, "cpu", 1, Peers())

        def run(**options):
            return tune(network, batches, validating, recipe, **options)

        return network, run

    return make


class Judging(Classes):
    """Has a judgement of its own of which epoch is better, given the number of the last."""

    def __init__(self, judge):
        super().__init__()
        self.judge = judge

    def better(self, curve, best):
        return self.judge(len(curve) - 1)


@pytest.fixture
def tuned(tuning):
    """Factory of the outcome of a run."""
    return lambda *arguments, **options: tuning(*arguments, **options)[1]()


def curve(outcome):
    return [[row["train_loss"], row["top1"], row["log_loss"], row["lr"]] for row in outcome.curve]


def assert_same_curve(found, wanted, tolerance=1e-6):
    assert len(found.curve) == len(wanted.curve)
    np.testing.assert_allclose(
        np.array(curve(found), float), np.array(curve(wanted), float), rtol=tolerance, atol=tolerance
    )
    assert (found.best_epoch, found.stopped) == (wanted.best_epoch, wanted.stopped)


def assert_same_state(found, wanted, tolerance=0.0):
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=tolerance, atol=tolerance)


def after(tuning, *arguments, **recipe):
    """The network's state after all steps, whatever was kept."""
    network, run = tuning(*arguments, **recipe)
    run()
    return network.state()


def distance(one, other):
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


# -- a run --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_network_learns(tuned, name, optimizer):
    outcome = tuned(name, optimizer=optimizer, epochs=6, lr=2e-3 if optimizer == "adamw" else 3e-2, layer_decay=0.75)
    assert [row["epoch"] for row in outcome.curve] == list(range(7))
    assert outcome.curve[-1]["train_loss"] < 0.8 * outcome.curve[1]["train_loss"]
    assert outcome.curve[outcome.best_epoch]["log_loss"] < 0.8 * outcome.curve[0]["log_loss"]
    assert (outcome.stopped, outcome.error, outcome.finished) == ("after all epochs", None, True)


@pytest.mark.slow
def test_epoch_0_is_measured_before_any_step(tuning):
    network, run = tuning()
    before = network.state()
    outcome = run()
    first = outcome.curve[0]
    assert (first["epoch"], first["train_loss"], first["lr"], first["n"]) == (0, None, None, 12)
    network.load(before)
    network, again = tuning()
    assert again().curve[0]["log_loss"] == first["log_loss"]


@pytest.mark.parametrize("tune", ["head", "last-1", "stage3+"])
def test_frozen_parameters_do_not_change_by_a_bit_and_others_do(tuning, tune):
    network, run = tuning(tune=tune, batch_norm="train", weight_decay=0.1)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    run()
    for name, value in network.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        layer = name.rpartition(".")[0]
        trains = any(one.startswith(f"{layer}.") for one in network.names)  # statistics go with their norm
        assert torch.equal(value, before[name]) != trains, name


@pytest.mark.slow
def test_a_seed_decides_all_and_another_decides_otherwise(tuned):
    options = {
        "name": "test_vit",
        "arguments": {"proj_drop_rate": 0.2, "drop_path_rate": 0.2},
        "augment": "standard",
        "mixup": 0.4,
    }
    torch.manual_seed(1)
    one = tuned(**options)
    torch.manual_seed(2)  # which the run neither uses nor changes
    state = torch.get_rng_state()
    again = tuned(**options)
    assert torch.equal(torch.get_rng_state(), state)
    assert curve(one) == curve(again)
    assert_same_state(one.state, again.state)
    other = curve(tuned(**options, seed=1))
    assert all(one[0] != two[0] for one, two in zip(other[1:], curve(one)[1:], strict=True))


# -- the schedule -------------------------------------------------------------------------------------------------


def rates(tuning, **recipe):
    """The learning rates of the head, step by step."""
    seen = []
    with before_steps(lambda one, *_: seen.append([group["lr"] for group in one.param_groups])):
        return seen, tuning(**recipe)[1]()


@contextmanager
def before_steps(hook):
    """Within, the hook is called with each optimizer before it steps."""
    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.slow
def test_the_rate_warms_up_and_falls_along_a_cosine(tuning):
    seen, outcome = rates(tuning, epochs=4, warmup=0.25, lr=1e-3, layer_decay=0.5)
    head = [groups[-1] for groups in seen]
    assert len(head) == 12
    np.testing.assert_allclose(head[:4], [2.5e-4, 5e-4, 7.5e-4, 1e-3])
    np.testing.assert_allclose(head[3:], [5e-4 * (1 + math.cos(math.pi * i / 9)) for i in range(9)])
    assert [row["lr"] for row in outcome.curve[1:]] == [max(head[i : i + 3]) for i in range(0, 12, 3)]
    for groups in seen:
        assert set(np.round(np.array(groups) / groups[-1], 6)) == {0.0625, 0.125, 0.25, 0.5, 1}


def test_without_warm_up_the_first_step_has_the_full_rate(tuning):
    seen, _ = rates(tuning, epochs=1, warmup=0.0, lr=1e-3)
    assert seen[0][-1] == pytest.approx(1e-3)
    assert seen[-1][-1] > 0


@pytest.mark.slow
def test_the_head_alone_has_epochs_with_a_schedule_of_its_own_before_the_others(tuning):
    seen, outcome = rates(tuning, epochs=2, head_epochs=2, warmup=0.0, lr=1e-3)
    assert [len(groups) for groups in seen] == [2] * 6 + [len(seen[-1])] * 6
    assert len(seen[-1]) > 2
    alone, whole = [groups[-1] for groups in seen[:6]], [groups[-1] for groups in seen[6:]]
    np.testing.assert_allclose(alone, whole)  # each falls from the highest rate to nothing
    assert whole[0] == pytest.approx(1e-3)
    assert len(outcome.curve) == 5


def test_while_the_head_trains_alone_the_network_does_not_change(tuning):
    network, run = tuning(head_epochs=2, epochs=1)
    before, seen = network.state(), []
    run(listener=Ear(lambda text: seen.append(network.state()) if text.startswith("epoch") else None))
    for number, state in enumerate(seen, start=1):
        same = [torch.equal(state[name], before[name]) for name in state if not name.startswith("head.")]
        assert all(same) == (number <= 2)
        assert not torch.equal(state["head.weight"], before["head.weight"])


# -- tricks -------------------------------------------------------------------------------------------------------


def first_step(tuning, **recipe):
    """Loss and gradients of the first batch."""
    network, _ = tuning(**recipe)
    recipe = Recipe(**{**QUICK, **recipe})
    return gradients_of(network, recipe)


def gradients_of(network, recipe, targets=None, count=8, images=None):
    step, samples = batch(network, recipe, count, images)
    targets = samples.targets if targets is None else targets
    objective = Classes.of(recipe, targets, network.head.weight)
    made = loop.Gradients(network, objective, recipe, Peers(), print)
    loss, weight = made.fill(step, [recipe.seed, 1, 0])
    named = [*network.module.named_parameters(), *(("head." + name, p) for name, p in network.head.named_parameters())]
    return loss / weight, {name: value.grad.clone() for name, value in named if value.grad is not None}


def batch(network, recipe, count=8, images=None):
    from featurepipe.stores import Pending

    rng = np.random.default_rng(5)

    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    sources = [InMemory({"": one}) for one in pixels]
    pending = [Pending(source.digest(""), source, "") for source in sources]
    samples = Examples(pending, (np.arange(count) % 5 % 3).astype(np.int64))
    batches = PixelBatches(samples, network.backbone.transform, replace(recipe, batch_size=count), "cpu", 1)
    return next(iter(batches.epoch(1))), samples


@pytest.mark.parametrize("accumulate", [2, 3, 8])
@pytest.mark.parametrize(
    "trick", [{}, {"mixup": 0.5}, {"label_smoothing": 0.1, "class_weight": "balanced"}, {"l2_sp": 0.1}], ids=str
)
def test_a_batch_in_pieces_makes_the_same_step(tuning, trick, accumulate):
    loss, gradients = first_step(tuning, **trick)
    pieces = first_step(tuning, accumulate=accumulate, **trick)
    assert pieces[0] == pytest.approx(loss, rel=1e-5)
    for name, value in gradients.items():
        torch.testing.assert_close(pieces[1][name], value, rtol=1e-3, atol=1e-6)


def test_pieces_are_what_is_in_memory_at_once(tuning):
    network, run = tuning(accumulate=3, epochs=1)
    forward, seen = network.trained, []
    network.trained = lambda pixels: seen.append(len(pixels)) or forward(pixels)
    run()
    assert seen == [3, 3, 2, 3, 3, 2, 3, 1]


def test_the_loss_is_cross_entropy_by_hand(tuning):
    recipe = Recipe(**{**QUICK, "label_smoothing": 0.2, "class_weight": "balanced"})
    network, _ = tuning()
    step, _ = batch(network, recipe)
    targets = np.array([0] * 6 + [1] * 3 + [2])
    log = torch.log_softmax(network.logits(step.inputs).double(), dim=1)
    weights = torch.tensor([10 / 18, 10 / 9, 10 / 3], dtype=torch.float64)
    wanted = 0.0
    for row, target in zip(log, step.targets, strict=True):
        smooth = torch.full((3,), 0.2 / 3, dtype=torch.float64)
        smooth[target] += 0.8
        wanted = wanted - (smooth * weights * row).sum()
    wanted = wanted / weights[step.targets].sum()
    by_hand = torch.autograd.grad(wanted, [network.head.weight, network.module.layer4[0].conv1.weight])
    loss, gradients = gradients_of(network, recipe, targets)
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for name, value in zip(("head.weight", "layer4.0.conv1.weight"), by_hand, strict=True):
        torch.testing.assert_close(gradients[name], value, rtol=1e-3, atol=1e-6)


def test_mixup_mixes_pixels_and_losses_alike(tuning):
    recipe = Recipe(**{**QUICK, "mixup": 1.0})
    network, _ = tuning()
    step, _ = batch(network, recipe)
    share = float(np.random.default_rng([0, 1, 0]).beta(1.0, 1.0))
    assert 0.05 < share < 0.95
    pixels = step.inputs[0].float()
    log = torch.log_softmax(network.predict(share * pixels + (1 - share) * pixels.flip(0)), dim=1)
    nll = torch.nn.functional.nll_loss
    wanted = share * nll(log, step.targets) + (1 - share) * nll(log, step.targets.flip(0))
    loss, gradients = gradients_of(network, recipe)
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert loss != pytest.approx(first_step(tuning)[0], rel=1e-3)
    assert gradients_of(network, recipe)[0] == loss
    assert (gradients["head.weight"] != 0).any()


@pytest.mark.slow
def test_a_class_weight_lets_a_rare_class_count(tuned, tinted):
    many = tinted(24)
    few = Examples([*many.images[:21], *many.images[22:23]], np.r_[np.arange(21) % 2, 2])
    plain, balanced = (tuned(samples=few, class_weight=weight, epochs=2) for weight in (None, "balanced"))
    assert curve(plain)[0] == curve(balanced)[0]
    assert curve(plain)[1][0] != pytest.approx(curve(balanced)[1][0], rel=1e-3)


@pytest.mark.slow
def test_l2_sp_holds_the_weights_where_they_were(tuning):
    start = tuning()[0].state()
    free, held = (after(tuning, l2_sp=strength, optimizer="sgd", lr=3e-2, epochs=8) for strength in (0.0, 10.0))
    assert distance(held, start) < 0.5 * distance(free, start)


def test_l2_sp_pulls_by_its_strength_times_the_distance(tuning):
    network, _ = tuning()
    recipe = Recipe(**{**QUICK, "l2_sp": 0.5})
    step, _ = batch(network, recipe)
    pulled = loop.Gradients(network, Classes(), recipe, Peers(), print)
    with torch.no_grad():
        for _, value in network.changing():
            value.add_(0.01)
    _, plain = gradients_of(network, replace(recipe, l2_sp=0.0))
    for value in (*network.module.parameters(), *network.head.parameters()):
        value.grad = None
    pulled.fill(step, [0, 1, 0])
    for name, value in network.changing():
        torch.testing.assert_close(value.grad - plain[name], torch.full_like(value, 0.005), rtol=1e-3, atol=1e-5)


def test_a_gradient_is_clipped_to_a_norm(tuning):
    norms = []

    def measure(optimizer, *_):
        values = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat([value.flatten() for value in values]).norm()))

    with before_steps(measure):
        tuning(clip_grad=0.0, epochs=1)[1]()
        free, least = list(norms), min(norms)
        norms.clear()
        tuning(clip_grad=least / 2, epochs=1)[1]()
    assert norms == pytest.approx([least / 2] * 3, rel=1e-4)
    assert len(free) == 3


@pytest.mark.slow
def test_weight_decay_shrinks_what_it_may(tuning):
    start = tuning()[0].state()
    plain, decayed = (after(tuning, weight_decay=decay) for decay in (0.0, 30.0))
    assert distance(plain, decayed) > 0.1
    assert float(decayed["layer4.0.conv1.weight"].norm()) < 0.9 * float(start["layer4.0.conv1.weight"].norm())


@pytest.mark.slow
def test_an_average_of_the_weights_is_what_is_validated_and_kept(tuning):
    network, run = tuning(ema=0.9, epochs=1)
    states, step = [network.state()], network.logits
    network.logits = lambda inputs: states.append(network.state()) or step(inputs)
    outcome = run()
    states.append(network.state())
    average = states[1]
    for number, state in enumerate(states[2:], start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in state}
    assert len(states) == 5
    assert outcome.best_epoch == 1
    assert_same_state(outcome.state, average, tolerance=1e-5)
    network.load(outcome.state)
    _, again = tuning(ema=0.9, epochs=1)
    validated = again().curve[1]["log_loss"]
    assert validated == outcome.curve[1]["log_loss"]


@pytest.mark.slow
def test_the_average_of_the_best_epoch_is_kept_as_it_was_then(tuning):
    """Later steps go on to change the average itself."""
    network, run = tuning(ema=0.5, epochs=4, patience=9)
    kept = []
    objective = Judging(lambda epoch: epoch == 2)
    outcome = run(objective=objective, listener=Ear(lambda text: kept.append(network.predict(pixels()))))
    assert outcome.best_epoch == 2
    network.load(outcome.state)
    validated = float(validation_loss(network, tuning))
    assert validated == pytest.approx(outcome.curve[2]["log_loss"], rel=1e-6)
    assert validated != pytest.approx(outcome.curve[4]["log_loss"], rel=1e-3)


def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8))


def validation_loss(network, tuning):
    other, run = tuning(epochs=1)
    other.load({name: value for name, value in network.state().items() if name in other.state()})
    return run().curve[0]["log_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"batch_norm": "train"}])
def test_what_is_kept_is_the_very_network_of_that_epoch(tuning, options):
    _network, run = tuning(epochs=4, lr=1e-2, **options)
    outcome = run()
    assert outcome.best_epoch > 0
    other, again = tuning(epochs=1, **options)
    other.load(outcome.state)
    assert again().curve[0]["log_loss"] == pytest.approx(outcome.curve[outcome.best_epoch]["log_loss"], rel=1e-6)


@pytest.mark.slow
def test_bf16_is_near_fp32_and_validation_stays_in_the_backbones_own(tuned):
    exact, rough = tuned(epochs=1), tuned(epochs=1, precision="bf16")
    assert curve(exact)[0] == curve(rough)[0]
    assert curve(exact)[1][0] != curve(rough)[1][0]
    assert curve(exact)[1][0] == pytest.approx(curve(rough)[1][0], rel=0.02)


# -- the kept epoch, and when it ends -----------------------------------------------------------------------------


def rows(*figures, n=100):
    return [{"epoch": i, "top1": top1, "log_loss": loss, "n": n} for i, (top1, loss) in enumerate(figures)]


@pytest.mark.parametrize(
    ("figures", "best", "wanted"),
    [
        ([(0.90, 0.5), (0.91, 0.4)], 0, True),  # better in both
        ([(0.90, 0.5), (0.88, 0.4)], 0, True),  # within one standard error (3 points), and surer
        ([(0.90, 0.5), (0.86, 0.1)], 0, False),  # not within
        ([(0.90, 0.5), (0.92, 0.6)], 0, False),  # within, and less sure
        ([(0.80, 0.5), (0.92, 0.6)], 0, True),  # what was kept is not within any more
        ([(0.80, 0.5), (0.92, 0.6), (0.90, 0.55)], 1, True),
        ([(0.95, 0.5), (0.90, 0.1), (0.94, 0.4)], 0, True),
        ([(0.90, 0.5), (0.90, 0.5)], 0, False),  # the earlier of equals stays
        ([(1.00, 0.5), (0.99, 0.1)], 0, True),  # one image of a hundred is chance, near 100 % too
        ([(1.00, 0.5), (0.98, 0.1)], 0, False),
        ([(0.90, 0.5), (0.90, float("nan"))], 0, False),
    ],
)
def test_the_rule_of_what_is_kept(figures, best, wanted):
    assert better(rows(*figures), best) is wanted


def test_what_is_kept_is_no_worse_than_the_start_by_the_rule():
    rng = np.random.default_rng(0)
    for _ in range(300):
        figures = list(zip(rng.uniform(0.3, 1, 8).round(2), rng.uniform(0, 1, 8), strict=True))
        best = 0
        for last in range(1, 8):
            if better(rows(*figures[: last + 1]), best):
                best = last
        assert best == 0 or better(rows(figures[0], figures[best]), 0)


class Scripted(Classes):
    """Finds the figures that it was given, whatever a network says."""

    def __init__(self, figures):
        super().__init__()
        self.figures = iter(rows(*figures))

    def validate(self, outputs, targets):
        return next(self.figures)


@pytest.fixture
def scripted(tuning):
    """Factory of a run whose validation figures are given."""

    def make(figures, **recipe):
        return tuning(epochs=len(figures) - 1, **recipe)[1](objective=Scripted(figures))

    return make


def test_the_last_epoch_is_kept_whatever_validation_says_of_the_others(scripted):
    outcome = scripted([(0.5, 1.0), (0.9, 0.4), (0.8, 0.5), (0.7, 0.6)])
    assert (outcome.best_epoch, outcome.stopped) == (3, "after all epochs")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ema": 0.5}])
def test_the_last_epoch_that_is_kept_is_the_network_as_the_last_step_has_made_it(tuning, options):
    network, run = tuning(epochs=3, lr=1e-2, **options)
    outcome = run()
    assert outcome.best_epoch == 3
    made = network.state()
    if options:  # what was validated, not what the last step made
        network.load(outcome.state)
        assert distance(made, network.state()) > 0
    else:
        assert_same_state(outcome.state, made)


@pytest.mark.slow
def test_with_patience_the_best_epoch_is_kept_and_it_may_be_the_start(scripted):
    assert scripted([(0.5, 1.0), (0.9, 0.4), (0.8, 0.5), (0.9, 0.6)], patience=9).best_epoch == 1
    outcome = scripted([(0.9, 0.4), (0.8, 0.1), (0.85, 0.5), (0.9, 0.4)], patience=9)
    assert outcome.best_epoch == 0
    assert "after all epochs" in outcome.stopped


@pytest.mark.slow
def test_the_start_that_is_kept_is_as_it_was(tuning):
    network, run = tuning(patience=9)
    before = network.state()
    assert_same_state(run(objective=Judging(lambda epoch: False)).state, before)


@pytest.mark.slow
def test_it_ends_early_when_neither_figure_gets_better(scripted):
    figures = [(0.5, 1.0), (0.6, 0.9), (0.6, 0.9), (0.6, 0.95), (0.9, 0.1)]
    outcome = scripted(figures, patience=2)
    assert len(outcome.curve) == 4
    assert (outcome.stopped, outcome.finished) == ("early: validation no better for 2 epochs", True)
    assert len(scripted(figures, patience=3).curve) == 5
    assert len(scripted(figures, patience=0).curve) == 5


@pytest.mark.slow
@pytest.mark.parametrize("improving", [(0.6, 0.8), (0.7, 0.9)])
def test_a_better_figure_of_either_kind_gives_it_more_time(scripted, improving):
    figures = [(0.5, 1.0), (0.6, 0.9), (0.6, 0.95), improving, (0.5, 1.0), (0.5, 1.0), (0.9, 0.1)]
    assert len(scripted(figures, patience=2).curve) == 6


def test_epochs_of_the_head_alone_are_given_their_time(scripted):
    figures = [(0.5, 1.0)] * 4 + [(0.4, 1.1)] * 5
    outcome = scripted(figures, patience=2, head_epochs=3)
    assert len(outcome.curve) == 6  # the start, three of the head, and two that were no better than the third


# -- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_it_with_the_best_so_far(tuning):
    network, run = tuning(lr=1e10, warmup=0.0)
    before = network.state()
    outcome = run()
    assert (outcome.stopped, outcome.best_epoch, outcome.finished) == (FAILED, 0, False)
    assert isinstance(outcome.error, TrainingDiverged)
    assert "is not finite in epoch 1, step 2; epoch 0 is kept; try a lower lr than 1e+10" in str(outcome.error)
    assert_same_state(outcome.state, before)


def test_a_validation_loss_that_is_not_finite_ends_it_too(tuned, tinted):
    outcome = tuned(lr=1e10, warmup=0.0, batch_size=20, epochs=2)  # a single step, whose own loss was finite
    assert isinstance(outcome.error, TrainingDiverged)
    assert "the validation loss is not finite in epoch 1" in str(outcome.error)
    assert len(outcome.curve) == 1


class Unseen(Judging):
    """Has no figures."""

    def tell(self, row):
        return ""


def test_a_weight_that_is_not_finite_ends_it_where_nothing_is_validated(tuning):
    _, run = tuning(batch_size=20, epochs=1)

    def destroy(optimizer, *_):
        optimizer.param_groups[0]["params"][0].data.fill_(math.inf)

    hook = register_optimizer_step_post_hook(destroy)
    try:
        outcome = run(objective=Unseen(lambda number: True), every=0)
    finally:
        hook.remove()
    assert isinstance(outcome.error, TrainingDiverged)
    assert "a weight is not finite in epoch 1" in str(outcome.error)
    assert (len(outcome.curve), outcome.best_epoch) == (1, 0)


def test_later_divergence_keeps_the_epochs_before(tuning):
    network, run = tuning(epochs=4)
    forward, steps = network.trained, []

    def failing(pixels):
        steps.append(1)
        return forward(pixels) * (float("nan") if len(steps) > 7 else 1)

    network.trained = failing
    outcome = run()
    assert "the loss is not finite in epoch 3, step 2" in str(outcome.error)
    assert len(outcome.curve) == 3
    assert outcome.best_epoch > 0


def limit(network, most, of="trained"):
    """No memory for more than so many images at once in training."""
    forward, seen = getattr(network, of), []

    def limited(pixels):
        seen.append(len(pixels))
        if len(pixels) > most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(pixels)

    setattr(network, of, limited)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mixup": 0.3, "label_smoothing": 0.1, "augment": "standard", "ema": 0.9}])
def test_where_memory_runs_out_batches_are_cut_and_the_curve_stays(tuning, tuned, options):
    network, run = tuning(**options)
    seen, notes = limit(network, 3), []
    outcome = run(listener=Ear(notes.append))
    assert_same_curve(outcome, tuned(**options), tolerance=1e-4)
    assert seen[:6] == [8, 4, 2, 2, 2, 2]
    assert max(seen[2:]) == 2  # it is not tried again
    assert [note for note in notes if "memory" in note] == [
        "memory ran out: each batch is now computed in pieces of 4 images",
        "memory ran out: each batch is now computed in pieces of 2 images",
    ]


@pytest.mark.slow
def test_memory_that_runs_out_in_the_backward_pass_leaves_no_half_gradient(tuning, tuned):
    options = {"optimizer": "sgd", "clip_grad": 0.0, "lr": 3e-2}
    network, run = tuning(**options)
    seen = []

    def limited(_):
        seen.append(float(network.head.weight.grad.abs().sum()))  # has been added to
        if len(seen) == 1:
            raise torch.OutOfMemoryError("out of memory")

    next(network.module.parameters()).register_post_accumulate_grad_hook(limited)
    outcome = run()
    assert seen[0] > 0
    assert_same_curve(outcome, tuned(**options), tolerance=1e-5)


def test_no_memory_for_a_single_image_ends_it_with_the_best_so_far(tuning):
    network, run = tuning(epochs=3)
    forward, steps = network.trained, []

    def failing(pixels):
        steps.append(1)
        if len(steps) > 4:
            raise MemoryError
        return forward(pixels)

    network.trained = failing
    outcome = run()
    assert isinstance(outcome.error, OutOfMemory)
    assert str(outcome.error).startswith("out of memory with a single image in training; try checkpointing")
    assert (outcome.stopped, outcome.best_epoch, len(outcome.curve)) == (FAILED, 1, 2)


def test_if_another_process_has_no_memory_this_one_cuts_its_batch_too(tuning):
    network, _ = tuning()
    step, _ = batch(network, Recipe(batch_size=8))

    class Other(Peers):
        """Has no memory for more than one image, and the same gradients."""

        def add(self, tensors):
            for tensor in tensors:
                if tensor.dtype == torch.float64 and tensor.shape == (5,):
                    tensor += tensor if made.piece == 1 else torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
                else:
                    tensor *= 2

    notes = []
    made = loop.Gradients(network, Classes(), Recipe(batch_size=8), Other(0, 2), Ear(notes.append))
    assert made.piece == 4  # its share of the batch
    loss, weight = made.fill(step, [0, 1, 0])
    assert (made.piece, weight, len(notes)) == (1, 16, 2)
    found = network.head.weight.grad.clone()
    network.head.weight.grad = None
    wanted, gradients = gradients_of(network, Recipe(batch_size=8))
    assert loss / weight == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(found, gradients["head.weight"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("at", ["step", "validation", "memory"])
def test_if_another_process_cannot_go_on_this_one_leaves_too(tuning, at):
    """At the same place, so that nobody waits for it."""

    class Other(Peers):
        """Is interrupted in its third step or its second validation, or has no memory there; this process has."""

        steps, validations = 0, 0

        def add(self, tensors):
            for tensor in tensors:
                if tensor.dtype == torch.float64 and tensor.shape == (5,):
                    Other.steps += 1
                    tensor += torch.tensor([0.0, 0.0, 0.0, 0.0, float(at == "step" and Other.steps == 3)])

        def gather(self, value):
            Other.validations += 1
            pieces, _, _ = value
            here = Other.validations == 2
            return [value, (pieces, at == "validation" and here, "no memory there" if at == "memory" and here else "")]

    _, run = tuning()
    outcome = run(peers=Other(0, 2))
    stopped = FAILED if at == "memory" else INTERRUPTED
    assert (outcome.stopped, outcome.best_epoch, len(outcome.curve)) == (stopped, 0, 1)
    assert (Other.steps, Other.validations) == ((3, 1) if at == "step" else (3, 2))
    assert (str(outcome.error) == "no memory there") is (at == "memory")


def test_no_memory_for_the_optimizer_ends_it_with_the_best_so_far(tuning):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with before_steps(full):
        outcome = tuning()[1]()
    assert isinstance(outcome.error, OutOfMemory)
    assert (outcome.stopped, outcome.best_epoch) == (FAILED, 0)


def test_another_error_is_not_swallowed(tuning):
    network, run = tuning()
    network.trained = lambda pixels: torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run()


def test_images_that_are_gone_are_left_out_and_said_once(tuning, planned):
    plan = planned(9)
    _network, run = tuning(samples=Examples(plan, np.arange(9) % 3), batch_size=4)
    Path(plan[3].place).unlink()
    notes = []
    outcome = run(listener=Ear(notes.append))
    assert outcome.finished
    gone = [note for note in notes if "read" in note]
    assert len(gone) == 1
    assert gone[0].startswith(
        "note: images that cannot be read any more are left out; the first: cannot be read: No such"
    )


@pytest.mark.slow
def test_a_batch_of_which_nothing_is_left_is_no_step(tuning, planned):
    plan = planned(5)
    samples = Examples(plan, np.arange(5) % 3)
    steps = []
    _, run = tuning(samples=samples, batch_size=1)
    Path(plan[3].place).unlink()
    with before_steps(lambda *_: steps.append(1)):  # one would decay weights
        outcome = run()
    assert len(steps) == 3 * 4
    assert outcome.finished
    assert math.isfinite(outcome.curve[-1]["train_loss"])


@pytest.mark.parametrize("part", ["samples", "validation"])
def test_where_no_image_is_left_it_says_so(tuning, planned, part):
    plan = planned(4)
    _, run = tuning(**{part: Examples(plan, np.arange(4) % 3)})
    for one in plan:
        Path(one.place).unlink()
    with pytest.raises(FinetuningError, match=r"no (training|validation) image can be read any more: cannot be read"):
        run()


# -- interrupted and taken up again -------------------------------------------------------------------------------


def interrupting(at):
    """A progress callback that stops everything at the number of images, counted over all epochs."""
    count = [0]

    @contextmanager
    def progress(label, total):
        def advance(done):
            count[0] += done
            if count[0] >= at:
                raise KeyboardInterrupt

        yield advance

    return progress


HEAD_FIRST = {"head_epochs": 2, "epochs": 2}
STOPS = [
    ({}, 300.0, 48),  # with a checkpoint after each epoch, and with one after each step
    ({"ema": 0.9, "augment": "standard", "mixup": 0.2}, 300.0, 30),
    ({}, 0.0, 30),
    ({"optimizer": "sgd", "lr": 3e-2}, 0.0, 30),
    ({"ema": 0.9, "augment": "standard", "mixup": 0.2}, 0.0, 30),
    ({"batch_norm": "train", "ema": 0.8, "optimizer": "sgd"}, 0.0, 30),
    ({"l2_sp": 0.1, "tune": "last-1"}, 0.0, 30),
    (HEAD_FIRST, 300.0, 48),  # the whole network trains from the 41st image on
    (HEAD_FIRST, 0.0, 20),
    (HEAD_FIRST, 0.0, 40),
    (HEAD_FIRST, 0.0, 44),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "seconds", "at"), STOPS, ids=str)
def test_an_interrupted_run_goes_on_along_the_same_curve(tuning, tuned, tmp_path, monkeypatch, options, seconds, at):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
    path = tmp_path / "checkpoint.pt"
    _, run = tuning(**options)
    outcome = run(checkpoint=path, listener=Ear(progress=interrupting(at)))
    assert (outcome.stopped, outcome.finished, outcome.error) == (INTERRUPTED, False, None)
    assert len(outcome.curve) == 1 + (at - 1) // 20
    assert path.exists()
    if seconds == 300:
        assert len(outcome.curve) > 1
    notes = []
    _, run = tuning(**options)
    again, whole = run(checkpoint=path, listener=Ear(notes.append)), tuned(**options)
    assert notes[0].startswith(f"continuing from {path}: epoch {1 + (at - 1) // 20 if at != 40 else 2} of")
    assert_same_curve(again, whole)
    assert_same_state(again.state, whole.state, tolerance=1e-6)


@pytest.mark.parametrize("part", ["progress", "tensors"])
def test_a_checkpoint_of_something_else_under_the_same_identity_is_one_line(tuning, tmp_path, part):
    network, run = tuning()
    tensors = {"state": network.state(), "best": network.state(), "average": {}, "optimizer": {}}
    held = ({"epoch": 1}, tensors) if part == "progress" else ({}, {"state": {}})
    checkpoints.save(tmp_path / "c.pt", sha256_json({"recipe": asdict(Recipe(**QUICK))}), *held)
    with pytest.raises(FinetuningError, match=r"c\.pt holds something else than a checkpoint of this run; remove it"):
        run(checkpoint=tmp_path / "c.pt")


@pytest.mark.slow
def test_nothing_is_learned_from_a_damaged_checkpoint(tuning, tuned, tmp_path):
    path, notes = tmp_path / "checkpoint.pt", []
    tuning()[1](checkpoint=path, listener=Ear(progress=interrupting(48)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = tuning()[1](checkpoint=path, listener=Ear(notes.append))
    assert notes[0] == f"note: {path} is damaged and was renamed to checkpoint.pt.damaged; tuning starts again"
    assert notes[1].startswith("before tuning")
    assert_same_curve(again, tuned())
    assert path.with_name("checkpoint.pt.damaged").read_bytes() == data


def test_interrupted_in_the_first_epoch_the_start_stands(tuning):
    network, run = tuning()
    before = network.state()
    outcome = run(listener=Ear(progress=interrupting(8)))
    assert (outcome.stopped, outcome.best_epoch, len(outcome.curve)) == (INTERRUPTED, 0, 1)
    assert_same_state(outcome.state, before)


def test_interrupted_while_an_average_is_validated_the_best_stands(tuning):
    calls = []

    class Stopped(Classes):
        def validate(self, outputs, targets):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().validate(outputs, targets)

    outcome = tuning(ema=0.9)[1](objective=Stopped())
    assert (outcome.stopped, len(outcome.curve)) == (INTERRUPTED, 2)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ema": 0.9}], ids=str)
def test_a_finished_run_is_not_learned_again(tuning, tmp_path, options):
    path = tmp_path / "c.pt"
    judging = Judging(lambda epoch: False)  # the last epoch is kept all the same
    first = tuning(**options)[1](checkpoint=path, objective=judging)
    network, run = tuning(**options)
    network.logits = None
    again = run(checkpoint=path, objective=judging)
    assert again.best_epoch == first.best_epoch == len(first.curve) - 1
    assert_same_curve(again, first)
    assert_same_state(again.state, first.state)


def test_a_run_that_ended_early_ends_there_again(tuning, tmp_path):
    path, options = tmp_path / "c.pt", {"lr": 1e-12, "patience": 1, "epochs": 5, "weight_decay": 0.0}
    first = tuning(**options)[1](checkpoint=path)
    assert "early" in first.stopped
    assert_same_curve(tuning(**options)[1](checkpoint=path), first)


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"lr": 1e-4}, {"seed": 1}, {"epochs": 4}, {"ema": 0.9}])
def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(tuning, tmp_path, other):
    path, notes = tmp_path / "c.pt", []
    tuning()[1](checkpoint=path)
    with pytest.raises(FinetuningError, match="belongs to a run with other data, options or precision"):
        tuning(**other)[1](checkpoint=path, strict=True)
    tuning(**other)[1](checkpoint=path, listener=Ear(notes.append))
    assert "belongs to a run with other data, options or precision" in notes[0]
    assert notes[1].startswith("before tuning")


@pytest.mark.slow
def test_a_checkpoint_of_other_data_is_not_gone_on_from(tuning, tmp_path):
    path, notes = tmp_path / "c.pt", []
    tuning()[1](checkpoint=path, identity={"data": "a"})
    tuning()[1](checkpoint=path, identity={"data": "b"}, listener=Ear(notes.append))
    assert notes[1].startswith("before tuning")
    notes.clear()
    tuning()[1](checkpoint=path, identity={"data": "b"}, listener=Ear(notes.append))
    assert notes[0].startswith("continuing")


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_is_a_note_and_not_the_end(tuning, tmp_path, limited_file_size):
    notes, (_, run) = [], tuning()
    with limited_file_size(4096):
        outcome = run(checkpoint=tmp_path / "c.pt", listener=Ear(notes.append))
    assert_same_curve(outcome, tuning()[1]())
    told = [note for note in notes if note.startswith("note: training continues without a checkpoint: ")]
    assert told
    assert str(tmp_path / "c.pt") in told[0]
    assert list(tmp_path.iterdir()) == []


def test_the_identity_of_a_run_is_made_once_of_all_that_decides_it(tuning):
    network, _ = tuning()
    made = loop._Tuning(network, batches(network), None, Recipe(), Classes(), {"a": 1}, loop.Session())
    assert made.identity == sha256_json({"a": 1, "recipe": asdict(Recipe())})


def batches(network):
    _, samples = batch(network, Recipe())
    return PixelBatches(samples, network.backbone.transform, Recipe(), "cpu", 1)


# -- other trainees -----------------------------------------------------------------------------------------------


def test_validation_has_its_turn_every_few_epochs_and_at_the_end(tuning):
    class Always(Judging):
        def tell(self, row):
            return super().tell(row) if "top1" in row else ""

    for every, wanted in {1: [True] * 5, 3: [True, False, False, True, True], 0: [False] * 5}.items():
        outcome = tuning(epochs=4)[1](every=every, objective=Always(lambda epoch: False))
        assert [("top1" in row) for row in outcome.curve] == wanted
        assert outcome.best_epoch == 4


class Coupled(Classes):
    """Compares the rows of a batch with each other: each with the mean of all."""

    couples = True

    def loss(self, outputs, targets):
        return (outputs - outputs.mean(0)).square().sum(), float(len(targets))


def test_a_loss_that_compares_rows_is_the_same_in_pieces(tuning):
    found = []
    for accumulate in (1, 3):
        network, _ = tuning("test_vit", accumulate=accumulate)  # without batch norms, which would see pieces
        recipe = Recipe(**{**QUICK, "accumulate": accumulate})
        step, _ = batch(network, recipe)
        gradients = loop.Gradients(network, Coupled(), recipe, Peers(), Ear())
        loss, weight = gradients.fill(step, [0])
        found.append((loss, weight, [one.grad.clone() for one in network.parameters()]))
    (loss, weight, whole), (other, same, pieces) = found
    assert (other, same) == (pytest.approx(loss, rel=1e-5), weight)
    for one, two in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "accumulate", "norms", "wanted"),
    [
        (10, 4, "train", [3, 3, 2, 2]),
        (10, 4, "eval", [3, 3, 3, 1]),
        (9, 5, "train", [2, 2, 2, 3]),
        (10, 3, "train", [4, 4, 2]),
    ],
)
def test_no_piece_is_a_single_image_where_batch_norms_need_two(tuning, count, accumulate, norms, wanted):
    recipe = Recipe(**{**QUICK, "accumulate": accumulate, "batch_norm": norms, "batch_size": count})
    network, _ = tuning(batch_norm=norms)
    seen, forward = [], network.trained
    network.trained = lambda pixels: seen.append(len(pixels)) or forward(pixels)
    loop.Gradients(network, Classes(), recipe, Peers(), Ear()).fill(batch(network, recipe, count)[0], [0])
    assert seen == wanted


def test_a_batch_norm_and_a_single_image_are_said_in_a_line(tuning):
    network, _ = tuning(batch_norm="train")
    recipe = Recipe(**{**QUICK, "batch_norm": "train"})
    gradients = loop.Gradients(network, Classes(), recipe, Peers(), Ear())
    with pytest.raises(FinetuningError, match=r"batch norms cannot learn from a single image, .* another batch size"):
        gradients.fill(batch(network, recipe, 1)[0], [0])
    step, seen = batch(network, recipe, 7)[0], limit(network, 1)
    with pytest.raises(OutOfMemory, match="out of memory with two images in training, and batch norms cannot"):
        gradients.fill(step, [0])
    assert seen == [7, 4, 2, 1]


def test_batch_norms_follow_coupled_pieces_once(tuning):
    found = []
    for objective in Classes(), Coupled():
        network, _ = tuning(batch_norm="train")
        recipe = Recipe(**{**QUICK, "batch_norm": "train", "accumulate": 2})
        loop.Gradients(network, objective, recipe, Peers(), Ear()).fill(batch(network, recipe)[0], [0])
        found.append({name: value for name, value in network.changing() if "running" in name})
    assert_same_state(*found, tolerance=1e-6)
    assert found[0]


# -- what is heard ------------------------------------------------------------------------------------------------


def test_progress_counts_every_image_of_every_epoch(tuning):
    heard = []

    @contextmanager
    def progress(label, total):
        done = []
        yield done.append
        heard.append((label, total, sum(done)))

    tuning(epochs=2)[1](listener=Ear(progress=progress))
    assert heard == [("epoch 1 of 2", 20, 20), ("epoch 2 of 2", 20, 20)]


def test_each_epoch_is_told(tuning):
    notes = []
    tuning(epochs=2)[1](listener=Ear(notes.append))
    assert len(notes) == 3
    assert notes[0].startswith("before tuning: accuracy on ")
    assert notes[1].startswith("epoch 1 of 2: training loss ")
    assert ["to go" in note for note in notes[1:]] == [True, False]
