"""Segmentation: the closed forms are what they say, pixels and cells agree, and masks that do not fit are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe.errors import SegmentationError
from featurepipe.segmentation import (
    Moments,
    Window,
    choose,
    classify,
    confusion,
    figures,
    find_masks,
    ious,
    learn_classes,
    logistic,
    mask_png,
    mean_iou,
    middles,
    overlay_png,
    shares,
    spread,
    window_of,
)
from featurepipe.segmentation.closed import lda, ridge
from featurepipe.segmentation.moments import narrow, widen

GRID, FINE, WIDTH, CLASSES = (3, 4), (12, 16), 5, 3


@pytest.fixture
def pictures():
    """Tokens (n, 3, 4, 5) and cell shares (12, 16, 3) of eight pictures, some of whose pixels do not count."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(8, *GRID, WIDTH)).astype(np.float32)
    truth = rng.normal(size=(WIDTH, CLASSES))
    held = []
    for one in tokens:
        fine = widen(one.astype(float), spread(3, middles(12)), spread(4, middles(16)))
        share = np.eye(CLASSES)[(fine @ truth).argmax(-1)]
        share[rng.random(FINE) < 0.1] = 0  # ignored
        share[rng.random(FINE) < 0.1] *= 0.5  # half of the cell
        held.append(share)
    return tokens, held


def stacked(tokens, held):
    """All cells as rows: interpolated features (N, D) by torch, and shares (N, K)."""
    maps = torch.from_numpy(tokens).permute(0, 3, 1, 2)
    fine = torch.nn.functional.interpolate(maps, FINE, mode="bilinear", align_corners=False)
    return fine.permute(0, 2, 3, 1).reshape(-1, WIDTH).double().numpy(), np.concatenate(held).reshape(-1, CLASSES)


def moments_of(tokens, held):
    made = Moments.empty(WIDTH, CLASSES)
    for one, share in zip(tokens, held, strict=True):
        made.add(one, share)
    return made


# -- closed forms -------------------------------------------------------------------------------------------------


def test_sums_are_those_of_interpolated_features(pictures):
    V, P = stacked(*pictures)
    made, m = moments_of(*pictures), P.sum(1)
    np.testing.assert_allclose(made.products, V.T @ (m[:, None] * V), atol=1e-3)
    np.testing.assert_allclose(made.crossed, V.T @ P, atol=1e-3)
    np.testing.assert_allclose(made.sums, V.T @ m, atol=1e-3)
    np.testing.assert_allclose(made.counts, P.sum(0))


def test_narrow_is_the_adjoint_of_widen():
    rng = np.random.default_rng(1)
    down, across = spread(3, middles(7)), spread(4, middles(9))
    X, Y = rng.normal(size=(3, 4, 2)), rng.normal(size=(7, 9, 2))
    assert (widen(X, down, across) * Y).sum() == pytest.approx((X * narrow(Y, down, across)).sum())


@pytest.mark.parametrize("alpha", [1e-4, 0.1])
def test_ridge_is_scikit_learns_on_cells_with_weights(pictures, alpha):
    from sklearn.linear_model import Ridge

    V, P = stacked(*pictures)
    weights = P.sum(1)
    some = weights > 0
    V, Y, weights = V[some], P[some] / weights[some, None], weights[some]
    mean = np.average(V, axis=0, weights=weights)
    scale = np.sqrt(np.average((V - mean) ** 2, axis=0, weights=weights))
    wanted = Ridge(alpha=alpha * weights.sum()).fit((V - mean) / scale, Y, sample_weight=weights)
    (made,) = ridge(moments_of(*pictures), [alpha])
    np.testing.assert_allclose(made.coef, wanted.coef_ / scale, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.intercept, wanted.intercept_ - (wanted.coef_ / scale) @ mean, rtol=1e-4, atol=1e-5)


def test_lda_is_scikit_learns_where_every_cell_is_of_one_class(pictures):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    tokens, held = pictures
    held = [(one > 0).astype(float) for one in held]
    V, P = stacked(tokens, held)
    some = P.sum(1) > 0
    V, y = V[some], P[some].argmax(1)
    scale = V.std(0)
    wanted = LinearDiscriminantAnalysis(solver="lsqr").fit(V / scale, y)
    (made,) = lda(moments_of(tokens, held), [1e-9])
    ours, theirs = V @ made.coef.T + made.intercept, wanted.decision_function(V / scale)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.999
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=0.02)


def test_the_best_strength_is_that_of_held_out_pictures(pictures):
    tokens, held = pictures
    folds = np.arange(8) % 4
    made = choose(lambda rows: tokens[rows], held, folds)
    assert [one["kind"] for one in made.path] == ["ridge"] * 6 + ["lda"] * 5
    best = max(made.path, key=lambda one: one["miou"])
    assert (made.kind, made.strength) == (best["kind"], best["strength"])
    assert best["miou"] > 0.7
    total = np.zeros((CLASSES, CLASSES))  # the first candidate by hand, fold by fold
    for fold in range(4):
        (fitted,) = ridge(moments_of(tokens[folds != fold], [held[i] for i in np.flatnonzero(folds != fold)]), [1e-4])
        for i in np.flatnonzero(folds == fold):
            V, P = stacked(tokens[i : i + 1], [held[i]])
            said = (V @ fitted.coef.T + fitted.intercept).argmax(1)
            for answer in range(CLASSES):
                total[:, answer] += P[said == answer].sum(0)
    assert made.path[0]["miou"] == pytest.approx(mean_iou(total), abs=1e-3)


def test_a_class_that_no_cell_is_of_gets_no_pixel(pictures):
    tokens, held = pictures
    held = [one * (1, 1, 0) for one in held]
    made = choose(lambda rows: tokens[rows], held, np.arange(8) % 4)
    assert np.isfinite(made.patches.intercept).all()
    assert set(made.patches.scores(tokens).argmax(-1).ravel().tolist()) <= {0, 1}


def test_without_anything_to_hold_out_the_middle_strength_is_taken(pictures):
    tokens, held = pictures
    made = choose(lambda rows: tokens[rows], held, np.zeros(8, int), ("lda",))
    assert (made.kind, made.strength, made.folds) == ("lda", 1e-2, 0)
    assert {one["miou"] for one in made.path} == {None}


def test_features_that_never_change_are_fitted_all_the_same(pictures):
    _, held = pictures
    for fit in (ridge, lda):
        (made,) = fit(moments_of(np.ones((8, *GRID, WIDTH), np.float32), held), [1e-2])
        assert np.isfinite(made.coef).all()


def test_a_class_in_a_single_picture_can_be_held_out(pictures):
    tokens, held = pictures
    held = [np.where(n == 0, one, one * (1, 1, 0)) for n, one in enumerate(held)]
    made = choose(lambda rows: tokens[rows], held, np.arange(8) % 4)
    assert all(np.isfinite(one["miou"]) for one in made.path)
    assert np.isfinite(made.patches.intercept).all()


def test_logistic_learns_the_same_and_its_batch_norm_is_folded_in(pictures):
    tokens, held = pictures
    seen = []
    made = logistic(lambda rows: tokens[rows], held, epochs=150, seed=0, progress=seen.append)
    assert sum(seen) == 150 * 8
    V, P = stacked(tokens, held)
    some = P.sum(1) > 0
    right = (V @ made.coef.T + made.intercept)[some].argmax(1) == P[some].argmax(1)
    assert right.mean() > 0.6
    again = logistic(lambda rows: tokens[rows], held, epochs=150, seed=0, progress=seen.append)
    np.testing.assert_array_equal(made.coef, again.coef)


# -- places -------------------------------------------------------------------------------------------------------


def test_classes_of_pixels_are_those_of_torchs_bilinear_interpolation():
    scores = np.random.default_rng(0).normal(size=(3, 4, 2))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(scores).permute(2, 0, 1)[None], (30, 20), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    assert np.array_equal(classify(scores, Window(0, 0, 20, 30), (20, 30)), wanted.argmax(-1).numpy())
    around = classify(scores, Window(5, 0, 20, 30), (40, 30), whole=True)  # five columns before, fifteen behind
    assert np.array_equal(around[:, 5:25], wanted.argmax(-1).numpy())
    assert (around[:, :5] == around[:, 5:6]).all()


def test_large_pictures_are_classified_in_strips(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    whole = classify(scores, Window(0, 0, 40, 30), (40, 30))
    monkeypatch.setattr("featurepipe.segmentation.frames.AT_ONCE", 7)
    assert np.array_equal(classify(scores, Window(0, 0, 40, 30), (40, 30)), whole)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64)])
def test_a_window_is_what_the_transform_keeps(mode, size):
    from featurepipe.images import ImageTransform, decode

    transform = {"input_size": (3, 32, 32), "crop_pct": 0.8, "crop_mode": mode}
    window = window_of(transform, size)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    ramps = np.stack([x * 255 / size[0], y * 255 / size[1], 0 * x], -1).round().astype(np.uint8)
    import io

    buffer = io.BytesIO()
    Image.fromarray(ramps).save(buffer, "PNG")
    seen = decode(buffer.getvalue(), ImageTransform((3, 32, 32), "bilinear", (0.5,) * 3, (0.5,) * 3, 0.8, mode))
    places = (np.arange(32) + 0.5) / 32
    wanted_x = (window.left + places * window.width - 0.5) * 255 / size[0]
    wanted_y = (window.top + places * window.height - 0.5) * 255 / size[1]
    assert np.abs(seen[0][16] - wanted_x).max() < 4  # a pixel of 60 is 4 levels
    assert np.abs(seen[1][:, 16] - wanted_y).max() < 4


@pytest.mark.parametrize(
    "changes", [{"crop_mode": "border"}, {"crop_pct": 1.1}, {"input_size": (3, 32, 64), "crop_mode": "center"}]
)
def test_transforms_that_masks_cannot_follow_are_refused(changes):
    with pytest.raises(SegmentationError, match="extract with --crop-mode squash --crop-pct 1"):
        window_of({"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "center", **changes}, (50, 40))


def test_shares_count_every_pixel_once():
    rng = np.random.default_rng(0)
    mask = rng.integers(-1, 3, (37, 53))
    found = shares(mask, Window(0, 0, 53, 37), (5, 7), 3)
    assert found.max() <= 1
    assert np.all(found.sum(-1) <= 1 + 1e-12)
    whole = shares(mask, Window(0, 0, 53, 37), (1, 1), 3)[0, 0] * mask.size
    np.testing.assert_allclose(whole, [(mask == k).sum() for k in range(3)])


# -- masks --------------------------------------------------------------------------------------------------------


def saved(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(path)
    return path


def test_classes_are_numbers_palettes_or_colours(tmp_path):
    grey = saved(tmp_path / "a.png", [[0, 7], [7, 255]])
    palette = saved(tmp_path / "b.png", [[0, 1], [2, 2]], "P")
    colour = tmp_path / "c.png"
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8)).save(colour)
    one = learn_classes({"x": grey}, ["x"], None, 255)
    assert (one.names, one.read("x", (2, 2)).tolist()) == (("0", "7"), [[0, 1], [1, -1]])
    two = learn_classes({"x": palette}, ["x"], ["sky", "sea", "land"], None)
    assert (two.names, two.read("x", (2, 2)).tolist()) == (("sky", "sea", "land"), [[0, 1], [2, 2]])
    three = learn_classes({"x": colour}, ["x"], None, None)
    assert three.read("x", (2, 2)).tolist() == [[1, 0], [1, 0]]  # blue is the smaller number


def test_masks_that_are_written_have_the_values_that_were_given_but_for_colours(tmp_path):
    grey, green = saved(tmp_path / "grey.png", [[3, 9, 255]]), tmp_path / "green.png"
    Image.fromarray(np.array([[[0, 0, 0], [0, 255, 0]]], np.uint8)).save(green)  # 65280, which a PNG could hold
    values, ignored = learn_classes({"x": grey}, ["x"], None, 255).written
    assert (values.tolist(), ignored) == ([3, 9], 255)
    for given in (None, 16777215):
        values, ignored = learn_classes({"x": green}, ["x"], None, given).written
        assert (values.tolist(), ignored) == ([0, 1], None)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    good, other = saved(tmp_path / "g.png", [[0, 1]]), saved(tmp_path / "o.png", [[0, 3]])
    masks = learn_classes({"g": good, "o": other}, ["g"], None, None)
    with pytest.raises(SegmentationError, match=r"g\.png has 2×1 pixels and its image 4×4"):
        masks.read("g", (4, 4))
    with pytest.raises(SegmentationError, match=r"holds 3, which is in no training mask.*--ignore 3"):
        masks.read("o", (2, 1))
    with pytest.raises(SegmentationError, match="hold only the class 0"):
        learn_classes({"g": good}, ["g"], None, 1)
    with pytest.raises(
        SegmentationError, match=r"3 class names are given, and the training masks hold 2 classes \(0, 1\)"
    ):
        learn_classes({"g": good}, ["g"], ["a", "b", "c"], None)
    with pytest.raises(SegmentationError, match="two classes have the same name"):
        learn_classes({"g": good}, ["g"], ["a", "a"], None)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(SegmentationError, match=r"x\.png cannot be read"):
        learn_classes({"x": tmp_path / "x.png"}, ["x"], None, None)
    with pytest.raises(SegmentationError, match="a JPEG changes its values"):
        learn_classes({"x": tmp_path / "x.jpg"}, ["x"], None, None)


def test_masks_are_found_by_name_below_a_folder_or_in_a_table(tmp_path):
    samples = [("train/images/a.jpg", "train/images/a.jpg"), ("b.jpg", "b.jpg"), ("c.jpg", "c.jpg")]
    a, b = saved(tmp_path / "masks" / "a.png", [[0]]), saved(tmp_path / "masks" / "deep" / "b.png", [[0]])
    assert find_masks(tmp_path / "masks", samples) == {"train/images/a.jpg": a, "b.jpg": b}
    table = tmp_path / "t.csv"
    table.write_text("path,mask\ntrain/images/a.jpg,masks/a.png\nc.jpg,\n", "utf-8")
    assert find_masks(table, samples) == {"train/images/a.jpg": a}
    table.write_text("path\nb.jpg\n", "utf-8")
    extra = saved(tmp_path / "masks" / "x" / "b.png", [[0]])
    with pytest.raises(SegmentationError, match=r"it is not clear which of the masks .*give a table"):
        find_masks(tmp_path / "masks", samples)
    extra.unlink()
    both = [("cat/1.jpg", "cat/1.jpg"), ("dog/1.jpg", "dog/1.jpg")]
    cat = saved(tmp_path / "some" / "cat" / "1.png", [[0]])
    assert find_masks(tmp_path / "some", both) == {"cat/1.jpg": cat}  # the dog's is not guessed
    with pytest.raises(SegmentationError, match="has no column 'mask'"):
        find_masks(table, samples)
    with pytest.raises(SegmentationError, match=r"no mask in .* belongs to a sample of the store"):
        find_masks(tmp_path / "masks", [("z.jpg", "z.jpg")])
    with pytest.raises(SegmentationError, match="neither a folder of masks nor a table"):
        find_masks(tmp_path / "none", samples)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegmentationError, match="holds no masks"):
        find_masks(tmp_path / "empty", samples)


# -- figures ------------------------------------------------------------------------------------------------------


def test_figures_count_pixels_of_all_images_together():
    truth = [np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1])]
    said = [np.array([0, 1, 1, 1]), np.array([0, 1, 0, 0])]
    matrices = np.stack([confusion(t, s, 3) for t, s in zip(truth, said, strict=True)])
    found = figures(matrices, ["a", "b", "c"], np.arange(2))
    assert found["per_class"]["a"] == {"iou": 2 / 4, "pixels": 3}
    assert found["per_class"]["b"] == {"iou": 3 / 5, "pixels": 4}
    assert found["per_class"]["c"] == {"iou": None, "pixels": 0}
    assert found["miou"] == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert found["pixel_accuracy"] == pytest.approx(5 / 7)
    assert found["miou_interval"][0] <= found["miou"] <= found["miou_interval"][1]
    assert figures(matrices, ["a", "b", "c"], np.zeros(2))["miou_interval"] is None  # one group says nothing of others
    assert np.isnan(ious(np.zeros((2, 2)))).all()
    with pytest.raises(SegmentationError, match="no pixel of the reported images counts"):
        figures(np.zeros((2, 3, 3), int), ["a", "b", "c"], np.arange(2))


def test_pictures_of_predictions_hold_the_classes(tmp_path):
    classes = np.array([[0, 1], [2, 2]])
    (tmp_path / "m.png").write_bytes(mask_png(classes))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), classes)
    (tmp_path / "o.png").write_bytes(overlay_png(Image.new("RGB", (2, 2), "white"), classes))
    with Image.open(tmp_path / "o.png") as image:
        shown = np.asarray(image)
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[0, 1].tolist() != shown[1, 1].tolist() == shown[1, 0].tolist()
