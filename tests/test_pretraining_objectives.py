"""Pretexts: their losses are those of the papers, each of them learns, and what they look at is what they should."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ears import Ear

from featurepipe.errors import PretrainingError
from featurepipe.finetuning import Peers, Step
from featurepipe.finetuning.gradients import Gradients
from featurepipe.pretraining import OBJECTIVES, Body, Pictures, Pupil
from featurepipe.pretraining.augmentations import Views
from featurepipe.pretraining.colors import BinTable, gamut, lab_of
from featurepipe.pretraining.objectives.autoencoder import PatchDecoder, is_maskable, masked_error
from featurepipe.pretraining.objectives.contrastive import nt_xent
from featurepipe.pretraining.objectives.distillation import Taught, standardise
from featurepipe.pretraining.objectives.sound import in_bits, standardised
from featurepipe.pretraining.objectives.vicreg import vicreg
from featurepipe.pretraining.pairs import Sounds
from featurepipe.pretraining.plans import recipe_of
from featurepipe.vocabulary import PretrainOptions

COUNT = 24


@pytest.fixture(scope="module")
def pictures():
    """Noisy pictures of three tints, and as many views of each as a teacher of two has."""
    rng, classes = np.random.default_rng(0), np.arange(COUNT) % 3
    tints = rng.integers(0, 160, (3, 1, 3, 1, 1))
    pixels = rng.integers(0, 96, (COUNT, 3, 3, 32, 32)) + tints[classes]
    return Pictures(
        torch.from_numpy(pixels.astype(np.uint8)),
        [str(n) for n in range(COUNT)],
        classes,
        ["a", "b", "c"],
        np.arange(COUNT),
    )


def extra(name, pictures):
    """What an objective needs besides pictures."""
    rng = np.random.default_rng(1)
    if name == "sound":
        textures = rng.normal(0, 0.1, (3, 502)).astype(np.float32) + np.eye(3, 502, dtype=np.float32)
        return Sounds(textures, np.arange(COUNT + 1), pictures.classes)
    if name == "distill":
        wanted = rng.normal(size=(3, 1, 8))[pictures.classes] + rng.normal(0, 0.1, (COUNT, 2, 8))
        return Taught(wanted, "a fingerprint")
    return None


def trained(name, pictures, backbone, steps=8, **how):
    """The losses of some steps, one batch of all pictures each."""
    how = PretrainOptions(objective=name, batch_size=COUNT, lr=3e-3, codes=3, **how)
    pretext = OBJECTIVES[name](how, (32, 32), pictures, extra(name, pictures))
    pupil = Pupil(backbone, pretext, recipe_of(how, "cpu", 1))
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)  # always the same views
        inputs, targets = pretext.prepare(pictures, pictures.learned, generator, step)
        total, weight = pretext.loss(pupil.logits(inputs), targets)
        assert weight == COUNT
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item() / weight)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_learned(name, pictures, small):
    losses = trained(name, pictures, small())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [("sound", {"sound_target": "bits"}), ("distill", {"distance": "mse"}), ("autoencoder", {}), ("colorize", {})],
)
def test_variants_and_transformers_are_learned_too(name, how, pictures, small):
    backbone = small("test_vit") if not how else small()
    losses = trained(name, pictures, backbone, steps=12, **how)
    assert losses[-1] < 0.97 * losses[0]


def test_nt_xent_is_the_cross_entropy_of_the_other_view():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 2, 7))
    flat = z.transpose(1, 0, 2).reshape(10, 7)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = np.exp(flat @ flat.T / 0.3)
    wanted = np.mean([-math.log(alike[i, (i + 5) % 10] / (alike[i].sum() - alike[i, i])) for i in range(10)])
    assert nt_xent(torch.from_numpy(z), 0.3).item() == pytest.approx(wanted, rel=1e-6)


def test_losses_are_those_of_lightly():
    loss = pytest.importorskip("lightly.loss")
    one, other = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(0))
    stacked = torch.stack([one, other], 1)
    for temperature in (0.1, 0.5):
        wanted = loss.NTXentLoss(temperature=temperature)(one, other).item()
        assert nt_xent(stacked, temperature).item() == pytest.approx(wanted, rel=1e-5)
    wanted = loss.VICRegLoss()(one, other).item()
    assert vicreg(one, other).item() == pytest.approx(wanted, rel=1e-4)


def test_vicreg_is_nothing_for_views_that_agree_vary_and_are_independent():
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert vicreg(2 * signs, 2 * signs).item() == pytest.approx(0, abs=1e-6)
    assert vicreg(signs * torch.tensor([0.1, 2]), signs * torch.tensor([0.1, 2])) > 5  # one number hardly varies
    twice = 2 * signs[:, :1].expand(-1, 2)
    assert vicreg(twice, twice) > 5  # both say the same


# -- colours ------------------------------------------------------------------------------------------------------


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    pixels = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    wanted = color.rgb2lab(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(lab_of(torch.from_numpy(pixels)).numpy(), wanted, atol=0.05)


def test_the_gamut_holds_what_screens_show_and_no_more():
    found = {tuple(one) for one in gamut().astype(int).tolist()}
    assert len(found) == 262
    for colour in torch.eye(3), 1 - torch.eye(3), torch.zeros(1, 3), torch.ones(1, 3):
        places = (lab_of(colour)[:, 1:] / 10).round() * 10
        assert {tuple(one) for one in places.int().tolist()} <= found
    assert (100, -100) not in found


def test_a_colour_is_spread_over_its_nearest_bins():
    table = BinTable()
    ab = (
        torch.tensor([[3.0, -4.0], [90.0, 70.0], [-100.0, 100.0]]).view(1, 3, 2).movedim(2, 1)[..., None]
    )  # (1, 2, 3, 1)
    numbers, shares = table.spread(ab)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 3, 1))
    for place in range(2):
        distances = (table.middles - ab[0, :, place, 0]).square().sum(1)
        assert numbers[0, place, 0].tolist() == distances.topk(5, largest=False).indices.tolist()
        wanted = (-distances.topk(5, largest=False).values / 50).softmax(0)
        torch.testing.assert_close(shares[0, place, 0], wanted)


def test_rare_colours_count_more_and_one_on_average():
    table = BinTable()
    ab = torch.zeros(100, 2, 1, 1)
    ab[0] = torch.tensor([60.0, 50.0]).view(2, 1, 1)
    weights = table.weights(table.counts(ab))
    grey, rare = (int(table.spread(one[None])[0][0, 0, 0, 0]) for one in (ab[1], ab[0]))
    assert weights[rare] > 3 * weights[grey]
    assert weights[grey] < 1


def test_colorization_sees_grey_and_is_asked_for_colour(pictures):
    pretext = OBJECTIVES["colorize"](PretrainOptions(objective="colorize"), (32, 32), pictures)
    (seen,), wanted = pretext.prepare(pictures, np.arange(4), torch.Generator().manual_seed(0), 1)
    assert torch.equal(seen[:, 0], seen[:, 1])
    assert torch.equal(seen[:, 0], seen[:, 2])
    assert (seen.shape, wanted.shape) == ((4, 3, 32, 32), (4, 2, 8, 8))
    assert wanted.abs().max() > 1


def test_colours_are_counted_piece_by_piece(pictures):
    pretext = OBJECTIVES["colorize"](PretrainOptions(objective="colorize"), (32, 32), pictures)  # 24 pictures
    ab = lab_of(pictures.take(pictures.learned, "cpu").float() / 255)[:, 1:]
    torch.testing.assert_close(pretext.weights, pretext.bins.weights(pretext.bins.counts(ab)))
    assert pretext.weights.std() > 0


def test_colorization_learns_nothing_from_grey_and_says_so(pictures):
    grey = pictures.pixels[:, :, :1].expand(-1, -1, 3, -1, -1)
    with pytest.raises(PretrainingError, match=r"all \d+ images looked at are grey.*choose another objective"):
        OBJECTIVES["colorize"](PretrainOptions(objective="colorize"), (32, 32), replace(pictures, pixels=grey))


# -- others -------------------------------------------------------------------------------------------------------


def test_a_masked_autoencoder_is_judged_by_hidden_patches_alone(pictures, small):
    pretext = OBJECTIVES["autoencoder"](PretrainOptions(objective="autoencoder"), (32, 32), pictures)
    pupil = Pupil(small("test_vit"), pretext, recipe_of(PretrainOptions(), "cpu", 1))
    assert is_maskable(pupil.body)
    assert isinstance(pupil.head, PatchDecoder)
    clean = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    patches = pupil.head.split(clean)
    assert patches.shape == (2, pupil.body.module.patch_embed.num_patches, 3 * math.prod(pupil.head.patch))
    torch.testing.assert_close(patches.mean(2), torch.zeros(patches.shape[:2]), atol=1e-5, rtol=0)
    seen = []
    pupil.body.module.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    torch.manual_seed(0)
    error = masked_error(pupil.body, pupil.head, clean, 0.75)
    kept = round(0.25 * patches.shape[1])
    assert seen == [kept + pupil.body.module.num_prefix_tokens]
    assert error.shape == (2,)
    assert not is_maskable(Body(small()))


def test_a_hybrid_transformer_is_denoised(pictures, small):
    how = PretrainOptions(objective="autoencoder")
    pretext = OBJECTIVES["autoencoder"](how, (32, 32), pictures)
    pupil = Pupil(small("vit_tiny_r_s16_p8_224", img_size=32), pretext, recipe_of(how, "cpu", 1))
    assert not is_maskable(pupil.body)  # it cuts patches of what a convolutional network gives
    inputs, _ = pretext.prepare(pictures, np.arange(4), torch.Generator().manual_seed(0), 1)
    assert pupil.logits(inputs).isfinite().all()


@pytest.mark.parametrize("name", ["autoencoder", "contrastive"])
def test_what_no_gradient_reaches_is_told_and_does_not_decay(name, pictures, small):
    how = PretrainOptions(objective=name, batch_size=COUNT)
    recipe, pretext = recipe_of(how, "cpu", 1), OBJECTIVES[name](how, (32, 32), pictures)
    pupil, notes = Pupil(small("mobilenetv3_small_050"), pretext, recipe), []
    gradients = Gradients(pupil, pretext, recipe, Peers(), Ear(notes.append))
    optimizer = torch.optim.AdamW(pupil.groups(recipe), lr=0.1)
    before = pupil.copy()
    for step in range(2):
        inputs, targets = pretext.prepare(pictures, pictures.learned, torch.Generator().manual_seed(0), step)
        gradients.fill(Step(inputs, targets), [0, 1, step])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    still = {key for key, value in pupil.changing() if torch.equal(value, before[key])}
    if name == "contrastive":  # its loss is that of embeddings, to which every layer adds
        assert (notes, still) == ([], set())
    else:
        assert still == {"body.conv_head.weight", "body.conv_head.bias"}
        names = "note: the objective autoencoder does not train conv_head.weight, conv_head.bias ("
        assert [note.startswith(names) for note in notes] == [True]


@pytest.mark.parametrize("mask", [0.001, 0.999])
def test_a_mask_leaves_something_to_see_and_something_to_guess(mask, pictures, small):
    how = PretrainOptions(objective="autoencoder", mask=mask)
    pupil = Pupil(small("test_vit"), OBJECTIVES["autoencoder"](how, (32, 32), pictures), recipe_of(how, "cpu", 1))
    assert masked_error(pupil.body, pupil.head, torch.rand(2, 3, 32, 32), mask).isfinite().all()


def test_what_a_teacher_said_is_standardised_in_place_over_what_is_learned_from():
    rng, rows = np.random.default_rng(0), np.arange(0, 40, 2)
    wanted = rng.normal(3, 2, (40, 2, 131)).astype(np.float32)
    wanted[:, :, 7] = 5  # which says nothing
    own = wanted[rows]
    whole = (wanted - own.mean((0, 1))) / np.maximum(own.std((0, 1)), 1e-6)
    standardise(wanted, rows)
    np.testing.assert_array_equal(wanted, whole)
    assert np.abs(wanted[rows].mean((0, 1))).max() < 1e-5


def test_sounds_are_drawn_anew_in_each_epoch_and_from_their_picture():
    sounds = Sounds(np.zeros((6, 502), np.float32), np.array([0, 3, 6]), np.arange(6))
    drawn = np.array([sounds.drawn(np.array([0, 1]), [0, epoch]) for epoch in range(40)])
    assert set(drawn[:, 0]) == {0, 1, 2}
    assert set(drawn[:, 1]) == {3, 4, 5}


def test_sounds_of_some_pictures_keep_their_places_among_all():
    sounds = Sounds(np.zeros((3, 502), np.float32), np.array([0, 2, 3]), np.array([0, 2, 1])).among(np.array([1, 4]), 6)
    assert [sounds.numbers[one:end].tolist() for one, end in pairwise(sounds.starts)] == [[], [0, 2], [], [], [1], []]


def test_bits_are_signs_and_all_equal_sounds_are_refused(pictures):
    textures = np.random.default_rng(0).normal(size=(20, 502)).astype(np.float32)
    codes = in_bits(standardised(textures), 5, 0)
    assert codes.shape == (20, 5)
    assert set(np.unique(codes)) == {0.0, 1.0}
    same = Sounds(np.zeros((3, 502), np.float32), np.arange(COUNT + 1), pictures.classes)
    with pytest.raises(PretrainingError, match="all sounds have the same texture"):
        OBJECTIVES["sound"](PretrainOptions(objective="sound"), (32, 32), pictures, same)


# -- views --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (80, 64)])  # a large one is blurred as well
def test_views_are_pictures_that_the_generator_decides(size, pictures):
    views, pixels = Views(size, 0.3, strength=1.0), pictures.take(np.arange(8), "cpu")
    one, again, other = (views(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == (8, 3, *size)
    assert 0 <= one.min() <= one.max() <= 1
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_without_crops_mirrors_and_colours_a_view_is_the_picture(pictures):
    pixels = pictures.take(np.arange(4), "cpu")
    found = Views((32, 32), 1.0, mirrors=False)(pixels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, pixels.float() / 255, atol=1e-5, rtol=0)


def test_a_mirror_is_exact_and_comes_half_of_the_time(pictures):
    pixels = pictures.take(np.arange(COUNT), "cpu").repeat(10, 1, 1, 1)
    found = Views((32, 32), 1.0)(pixels, torch.Generator().manual_seed(0))
    plain = pixels.float() / 255
    turned = (found - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (turned | ((found - plain).abs().amax((1, 2, 3)) < 1e-4)).all()
    assert 0.35 < turned.float().mean() < 0.65


def test_a_crop_keeps_the_least_share_also_where_it_is_cut_to_the_picture():
    steps = torch.arange(0, 256, 8, dtype=torch.uint8)  # (32,)
    pixels = torch.stack([steps.expand(32, 32), steps[:, None].expand(32, 32), torch.zeros(32, 32)]).byte()[None]
    found = Views((32, 32), 0.99)(pixels.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    seen = (found.amax((2, 3)) - found.amin((2, 3)))[:, :2] / (248 / 255)  # (200, 2) shares of the sides
    assert seen.prod(1).min() > 0.96


def test_some_views_are_grey(pictures):
    found = Views((32, 32), 1.0, strength=0.5)(
        pictures.take(np.arange(COUNT), "cpu").repeat(20, 1, 1, 1), torch.Generator().manual_seed(0)
    )
    grey = (found.amax(1) - found.amin(1)).amax((1, 2)) < 1e-3
    assert 0.1 < grey.float().mean() < 0.3
