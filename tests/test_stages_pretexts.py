"""The stage `pretrain`, from pictures to a backbone file and back; and what it refuses."""

import csv
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from ears import Ear
from PIL import Image
from recorded import noise, tone, written
from safetensors import safe_open
from safetensors.torch import load_file

import featurepipe
from featurepipe import backbones, cli, manifests
from featurepipe.errors import (
    FeaturepipeError,
    FingerprintMismatch,
    OutputError,
    PretrainingError,
    TrainingDiverged,
    WeightsUnavailable,
)
from featurepipe.listeners import SILENT
from featurepipe.pretraining import OBJECTIVES, Pupil, gather, plans
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.objectives.supervised import Supervised
from featurepipe.pretraining.runs import Run
from featurepipe.stages import pretrain
from featurepipe.stores import digest_rows
from featurepipe.vocabulary import PretrainOptions

SMALL = {"backbone": "test_resnet", "input_size": (3, 32, 32), "batch_size": 8, "epochs": 2, "device": "cpu"}


@pytest.fixture
def run(tmp_path):
    """Factory of pretrainings with small networks; the file is `tmp_path / NAME.safetensors`."""

    def make(data, name="b", listener=SILENT, **how):
        return pretrain(data, tmp_path / f"{name}.safetensors", listener=listener, workers=1, **{**SMALL, **how})

    return make


def losses(result):
    return [row["train_loss"] for row in result["curve"][1:]]


@pytest.mark.slow
def test_the_file_is_a_plain_checkpoint_that_every_command_takes(run, photos, tmp_path):
    data = photos(per_class=12)
    result = run(data, objective="supervised", every=1, licence="CC0")
    path = tmp_path / "b.safetensors"
    assert (result["backbone"], result["name"]) == (str(path), "b")
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["featurepipe"])
    module = timm.create_model(header["architecture"], num_classes=0, **header["arguments"]).eval()
    module.load_state_dict(load_file(path), strict=True)  # nothing but timm's names
    card = header["pretraining"]
    assert (card["objective"], card["epochs"], card["seed"], card["licence"]) == ("supervised", 2, 0, "CC0")
    assert card["data"]["images"] == 20  # of 24, as many whole ones of each class as a fifth leaves
    assert 0 <= card["probe"]["linear"] <= 1
    assert [("knn" in row) for row in result["curve"]] == [True, True, True]
    backbone = backbones.create(path, device="cpu", precision="fp32")
    pixels = backbone.transform.trial(2)
    with torch.no_grad():
        wanted = module.forward_head(module.forward_features(torch.from_numpy(pixels) / 127.5 - 1), pre_logits=True)
    np.testing.assert_allclose(backbone.embed(pixels), wanted.numpy(), atol=1e-4)
    store = featurepipe.extract(data, tmp_path / "s", backbone=path, device="cpu", listener=SILENT)
    assert (store["backbone"], store["computed"]) == ("b", 24)
    probe = featurepipe.probe(tmp_path / "s", tmp_path / "m.safetensors", backbone=path, kind="ridge", baselines="none")
    assert probe["backbone"] == "b"
    told = featurepipe.info(path)
    assert (told["backbone_file"], told["licence"], told["pretraining"]) == (str(path), "CC0", card)
    said = cli.texts.info_text(told).splitlines()
    assert said[0] == f"{path}: backbone b, {header['architecture']}"
    assert said[1].startswith(f"  pretrained by supervised on 20 images of {data.name}: 2 of 2 epochs, seed 0")
    assert said[2].startswith("  kNN ")
    assert said[3:] == ["  licence: CC0"]
    answers = featurepipe.predict(tmp_path / "m.safetensors", data, listener=SILENT, device="cpu")
    assert len(answers["predictions"]) == 24
    page = Path(result["page"]).read_text("utf-8")
    assert "supervised" in page
    assert "linear probe" in page
    assert json.loads(Path(result["json"]).read_text("utf-8"))["curve"] == result["curve"]
    assert not (tmp_path / "b.pretraining").exists()


def test_a_damaged_file_is_not_taken(run, photos, tmp_path):
    run(photos(per_class=6), every=0, epochs=1)
    path = tmp_path / "b.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FingerprintMismatch, match="do not match their digest"):
        backbones.create(path)
    with pytest.raises(FeaturepipeError, match="has its own weights"):
        backbones.create(path, random_weights=True)


@pytest.mark.slow
def test_a_seed_decides_all(run, photos):
    data = photos(per_class=6)
    one, again, other = (run(data, f"b{n}", every=0, seed=seed) for n, seed in enumerate((0, 0, 1)))
    assert losses(one) == losses(again)
    assert losses(one) != losses(other)
    digests = [backbones.create(result["backbone"]).spec["weights"] for result in (one, again, other)]
    assert digests[0] == digests[1] != digests[2]


KILLED = """
import os, signal, sys
from featurepipe.listeners import Listener
from featurepipe.stages import pretrain
class Ear(Listener):
    def note(self, text):
        if text.startswith("epoch 2 of"):
            os.kill(os.getpid(), signal.SIGKILL)
pretrain(sys.argv[1], sys.argv[2], listener=Ear(), workers=1, objective="contrastive", backbone="test_resnet",
         input_size=(3, 32, 32), batch_size=8, epochs=3, device="cpu", every=2, ema=0.9)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_after_kill_9_it_goes_on_along_the_same_curve(run, photos, tmp_path):
    data = photos(per_class=10)
    how = {"objective": "contrastive", "epochs": 3, "every": 2, "ema": 0.9}
    done = subprocess.run([sys.executable, "-c", KILLED, str(data), str(tmp_path / "cut.safetensors")], check=False)
    assert done.returncode == -9
    with pytest.raises(PretrainingError, match=r"holds a run that was interrupted; add --resume"):
        run(data, "cut", **how)
    with pytest.raises(PretrainingError, match=r"with another seed \(0, not 1\)"):
        run(data, "cut", resume=True, **how, seed=1)
    notes = []
    again, whole = run(data, "cut", Ear(notes.append), resume=True, **how), run(data, "whole", **how)
    assert any(note.startswith("continuing from") and "epoch 3 of 3" in note for note in notes)
    # the same to rounding: processes may split sums among threads in another way
    np.testing.assert_allclose(losses(again), losses(whole), rtol=1e-5)
    for row, wanted in zip(again["curve"], whole["curve"], strict=True):
        assert row.get("knn") == wanted.get("knn")
    assert again["stopped"] == "after all epochs"


def test_ctrl_c_keeps_the_best_until_then_and_other_images_are_not_gone_on_with(run, photos, tmp_path):
    data = photos(per_class=6)

    @contextmanager
    def progress(label, total):
        if label == "epoch 2 of 2":
            raise KeyboardInterrupt
        yield lambda done: None

    result = run(data, listener=Ear(progress=progress), every=0)
    assert (result["stopped"], result["card"]["kept_epoch"]) == ("interrupted", 1)
    assert backbones.create(tmp_path / "b.safetensors").width == result_width()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(data / "ant" / "new.png")
    with pytest.raises(PretrainingError, match="holds a run with other images than these; restore them"):
        run(data, every=0, resume=True)
    assert run(data, every=0, force=True)["stopped"] == "after all epochs"


def interrupted_in(label, when=lambda: None):
    """A listener that Ctrl-C comes to when a progress bar of that name begins."""

    @contextmanager
    def progress(name, total):
        if name == label:
            when()
            raise KeyboardInterrupt
        yield lambda done: None

    return Ear(progress=progress)


def test_ctrl_c_in_the_first_epoch_leaves_the_files_of_before(run, photos, tmp_path):
    data, notes = photos(per_class=6), []
    run(data, every=0)
    before = (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(data, every=0, seed=1, listener=interrupted_in("epoch 1 of 2"))
    assert (tmp_path / "b.safetensors").read_bytes() == before
    # its record is not taken for the plan of another run
    result = run(data, every=0, seed=2, epochs=3, resume=True, listener=Ear(notes.append))
    assert (result["card"]["planned_epochs"], len(result["curve"])) == (3, 4)
    assert any("holds nothing to resume" in note for note in notes)
    assert losses(result) == losses(run(data, "whole", every=0, seed=2, epochs=3))


def test_force_removes_an_earlier_run_only_when_the_new_one_starts(run, photos, tmp_path):
    data = photos(per_class=6)
    run(data, every=0, listener=interrupted_in("epoch 2 of 2"))
    checkpoint = tmp_path / "b.pretraining" / "checkpoint.pt"
    with pytest.raises(FeaturepipeError, match="does not exist"):
        run(tmp_path / "phtos", every=0, force=True)
    assert checkpoint.is_file()


@pytest.mark.parametrize("lost", ["record", "precision"])
def test_a_run_that_cannot_be_continued_is_not_started_again_without_a_word(run, photos, tmp_path, lost, monkeypatch):
    data = photos(per_class=6)
    run(data, every=0, listener=interrupted_in("epoch 2 of 2"))
    folder = tmp_path / "b.pretraining"
    before = (folder / "checkpoint.pt").read_bytes()
    if lost == "record":
        (folder / "run.json").unlink()
        says = r"run\.json is missing or damaged"
    else:  # as on another device
        made = plans.recipe_of
        monkeypatch.setattr(plans, "recipe_of", lambda *given: replace(made(*given), precision="bf16"))
        says = "belongs to a run with other data, options or precision"
    with pytest.raises(FeaturepipeError, match=says):
        run(data, every=0, resume=True)
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_other_weights_under_the_same_name_are_not_gone_on_with(run, photos, tmp_path):
    data, weights = photos(per_class=6), tmp_path / "start.pth"
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
        if not seed:
            run(data, every=0, weights=weights, listener=interrupted_in("epoch 2 of 2"))
    with pytest.raises(PretrainingError, match="holds a run with other weights than these; restore them"):
        run(data, every=0, weights=weights, resume=True)


@pytest.mark.parametrize("name", ["b.json", "b.html", "b.png"])
def test_files_of_others_next_to_the_backbone_are_not_replaced(run, photos, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match=rf"{name} exists and is not a .* of featurepipe; give another name"):
        run(photos(per_class=4), every=0)
    assert (tmp_path / name).read_text() == "{}"


def test_what_is_read_is_never_replaced(run, photos, tmp_path):
    data = photos(per_class=4)
    with pytest.raises(OutputError, match=r"lies in .*would be one of the images"):
        pretrain(data, data / "b.safetensors", **SMALL)
    run(data, "teacher", every=0, epochs=1)
    with pytest.raises(OutputError, match="is an input of this command"):
        run(data, "teacher", objective="distill", teacher=str(tmp_path / "teacher.safetensors"), force=True)


def result_width():
    return timm.create_model("test_resnet", num_classes=0).num_features


class Broken(Supervised):
    """Its loss is no number from the second epoch on."""

    def prepare(self, pictures, rows, generator, epoch):
        inputs, targets = super().prepare(pictures, rows, generator, epoch)
        return ((inputs[0] * float("nan") if epoch == 2 else inputs[0],), targets)


def test_a_loss_that_is_no_number_ends_it_and_the_best_is_written(run, photos, tmp_path, monkeypatch):
    """It is a member of a seam, too: a class and a line in a dict, here one of a test's own."""
    monkeypatch.setitem(OBJECTIVES, "broken", Broken)
    with pytest.raises(TrainingDiverged, match=r"the loss is not finite in epoch 2.*b\.safetensors holds the best"):
        run(photos(per_class=6), objective="broken", every=0)
    told = json.loads((tmp_path / "b.json").read_text("utf-8"))
    assert (told["stopped"], told["card"]["kept_epoch"]) == ("failed", 1)
    backbones.create(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("labelled", "says"),
    [(True, "the validation loss is not finite in epoch 1"), (False, "after epoch 1 the embeddings are not finite")],
)
def test_a_network_that_the_last_step_has_destroyed_is_not_written(run, photos, tmp_path, labelled, says):
    data = photos(per_class=4, classes=("ant", "bee") if labelled else ("x",))
    run(data if labelled else data / "x", epochs=1)
    before = (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(TrainingDiverged, match=f"{says}.*was not written"):
        run(data if labelled else data / "x", epochs=1, lr=1e30, warmup=0.0, force=True)
    assert (tmp_path / "b.safetensors").read_bytes() == before


class Blind(Supervised):
    """Its probes see nothing."""

    def validate(self, outputs, targets):
        return super().validate(outputs * float("nan"), targets)


def test_a_network_that_gives_no_numbers_is_not_trained(run, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "blind", Blind)
    with pytest.raises(TrainingDiverged, match=r"before pretraining, what the network gives.*start from other weights"):
        run(photos(per_class=6), objective="blind")
    assert not (tmp_path / "b.safetensors").exists()


def test_probes_need_no_more_memory_than_a_piece_of_a_batch(run, photos, monkeypatch):
    data, embed, sizes = photos(per_class=12), Body.embed, []

    def scarce(self, pixels):
        if not self.training and len(pixels) > 5:
            raise torch.OutOfMemoryError("out of memory")
        sizes.extend([] if self.training else [len(pixels)])
        return embed(self, pixels)

    expected = run(data)["curve"]
    monkeypatch.setattr(Body, "embed", scarce)
    monkeypatch.setattr(Pupil, "_at_once", 16)
    found = run(data)["curve"]
    assert max(sizes) <= 5
    assert [row.get("knn") for row in found] == [row.get("knn") for row in expected]


def test_one_output_is_one_run(run, photos, tmp_path):
    data = photos(per_class=4)
    says = r"another run is training in .*b\.pretraining; wait for it"
    with Run(tmp_path / "b.pretraining").alone(), pytest.raises(PretrainingError, match=says):
        run(data)
    run(data)
    assert not (tmp_path / "b.pretraining").exists()


# -- what is learned from -----------------------------------------------------------------------------------------


def test_test_images_are_never_seen_and_val_is_for_probes(run, photos, monkeypatch):
    data = photos(per_class=6, splits=("train", "val", "test"))
    for number, path in enumerate(sorted((data / "val").rglob("*.*"))):  # or all splits have the same pictures
        pixels = np.random.default_rng([number, len(path.parents)]).integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    seen = []
    monkeypatch.setattr(Supervised, "loss", remembering(Supervised.loss, seen))
    result = run(data, objective="supervised", every=1, epochs=1)
    assert result["card"]["data"]["images"] == 12
    assert result["curve"][-1]["n"] == 12
    assert sum(seen) == 8  # one whole batch


def test_copies_of_test_images_are_not_learned_from(run, photos):
    data, notes = photos(per_class=6, splits=("train", "test")), []
    for path in (data / "test").rglob("*.*"):
        path.write_bytes(np.random.default_rng(len(path.name)).bytes(4) + path.read_bytes())  # unreadable, distinct
    train, test = sorted((data / "train").rglob("*.*")), sorted((data / "test").rglob("*.*"))
    test[0].write_bytes(train[0].read_bytes())
    result = run(data, every=0, epochs=1, listener=Ear(notes.append))
    assert (result["card"]["data"]["images"], result["card"]["data"]["left_out"]) == (len(train) - 1, 0)
    assert any("1 images are exact copies of test images and are left out" in note for note in notes)


def test_no_group_is_learned_from_and_measured(photos, tmp_path):
    """Not even by images of a measured group that have no label."""
    data = photos(per_class=10)
    table = tmp_path / "grouped.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "patient"])
        for path in sorted(data.rglob("*.*")):
            label = path.parent.name if int(path.stem) % 5 else ""
            rows.writerow([path, label, f"{path.parent.name}{int(path.stem) // 2}"])
    manifest = manifests.read(table, group_column="patient")
    network = backbones.create("test_resnet", random_weights=True, transform={"input_size": (3, 32, 32)})
    how = PretrainOptions(objective="contrastive", every=1)
    given = (table, "path"), network, tmp_path
    found = gather(OBJECTIVES["contrastive"], how, manifest, *given, limit=None, workers=1, listener=SILENT).pictures
    group = {sample.id: sample.group for sample in manifest.samples}
    rows, _ = digest_rows(manifest, 1)
    of_digest = {row.digest: group[row.sample.id] for row in rows}
    learned, measured = ({of_digest[found.digests[i]] for i in some} for some in (found.learned, found.measured))
    assert len(measured) >= 2
    assert not learned & measured


def remembering(loss, seen):
    def made(self, outputs, targets):
        seen.append(len(targets))
        return loss(self, outputs, targets)

    return made


def test_boxes_without_a_label_are_left_out_of_classes_and_the_others_of_their_photo_stay(run, tmp_path):
    rng, rows = np.random.default_rng(0), [["path", "part", "label"]]
    for n in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"{n}.png")
        boxes = ("0,0,20,40", "20,0,40,40", "0,0,40,20")
        rows += [[f"{n}.png", box, label] for box, label in zip(boxes, ("x", "", "y"), strict=True)]
        rows += [[f"{n}.png", "0,20,40,40", ""]]
    with open(tmp_path / "boxes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    notes = []
    how = {"objective": "supervised", "every": 0, "batch_size": 4, "epochs": 1}
    result = run(tmp_path / "boxes.csv", listener=Ear(notes.append), **how)
    assert result["card"]["data"]["images"] == 12
    assert any("12 images have no label and are not learned from" in note for note in notes)


def test_images_without_labels_are_learned_from_without_probes(run, photos):
    data = photos(classes=("one",), per_class=9)
    result = run(data / "one", every=1)
    assert result["card"]["probe"] == {}
    assert all("knn" not in row for row in result["curve"])
    assert "there were no labels to probe it with" in Path(result["page"]).read_text("utf-8")
    asked = run(data / "one", "asked", every=0)
    assert "no probes were asked for" in Path(asked["page"]).read_text("utf-8")


def test_where_memory_is_small_pictures_lie_on_disk(run, photos, tmp_path):
    notes, data = [], photos(per_class=6)
    small = pretrain(
        data, tmp_path / "d.safetensors", listener=Ear(notes.append), memory=10_000, workers=1, every=0, **SMALL
    )
    assert any("do not fit into 10 kB of memory" in note for note in notes)
    assert losses(small) == losses(run(data, every=0))
    assert not (tmp_path / "d.pretraining").exists()


def test_images_smaller_than_the_input_are_told_of_and_broken_ones_left_out(run, tmp_path):
    folder, notes = tmp_path / "tiny", []
    folder.mkdir()
    for n in range(10):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (12, 16, 3), np.uint8)).save(folder / f"{n}.png")
    (folder / "bad.png").write_bytes(b"\x89PNG nothing")
    result = run(folder, listener=Ear(notes.append), epochs=1)
    assert result["card"]["data"]["left_out"] == 1
    assert any("10 of 10 images looked at are smaller than the input of 32 pixels (median 12)" in one for one in notes)
    assert any("1 images cannot be read and are left out" in one for one in notes)


def test_minutes_become_epochs_by_the_speed_of_the_first_steps(run, photos):
    result = run(photos(per_class=10), epochs=None, minutes=0.002, every=0)
    few = run(photos(per_class=2, name="few"), "few", epochs=None, minutes=0.01, every=0)  # an epoch is one batch
    assert few["card"]["images_per_epoch"] == 4
    assert few["card"]["planned_epochs"] < 60
    assert result["card"]["planned_epochs"] >= 1
    assert result["card"]["images_per_epoch"] in (8, 16)
    assert plans.of_minutes(10, 1000, 50_000, 256) == plans.Plan(12, 49_920)
    assert plans.of_minutes(1, 100, 50_000, 256) == plans.Plan(1, 5888)


# -- a teacher ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_teacher_runs_once_and_its_views_are_those_of_the_pupil(run, photos, tmp_path, monkeypatch):
    from featurepipe.pretraining import teachers

    torch.manual_seed(0)
    weights = tmp_path / "teacher.pth"
    torch.save(timm.create_model("test_vit", num_classes=0, img_size=160).state_dict(), weights)
    data, made, seen = photos(per_class=6), [], []
    how = {"objective": "distill", "teacher": "test_vit", "teacher_weights": weights, "views": 2, "every": 0}
    fill = teachers.extraction.fill
    monkeypatch.setattr(
        teachers.extraction, "fill", lambda plan, *a, **k: made.append(len(plan)) or fill(plan, *a, **k)
    )
    kind = OBJECTIVES["distill"]
    monkeypatch.setattr(kind, "__init__", looking(kind.__init__, seen))
    first = run(data, "one", **how)
    assert made == [12, 12]  # a view each
    (tmp_path / "two.pretraining").mkdir()
    (tmp_path / "one.pretraining" / "teacher.store").rename(tmp_path / "two.pretraining" / "teacher.store")
    assert losses(run(data, "two", **how)) == losses(first)
    assert made == [12, 12]
    pictures, (wanted, _) = seen[0]
    assert pictures.pixels.shape == (12, 3, 3, 32, 32)
    assert wanted.shape[:2] == (12, 2)
    assert not np.allclose(wanted[:, 0], wanted[:, 1])


def looking(init, seen):
    def made(self, how, size, pictures, extra=None):
        seen.append((pictures, extra))
        init(self, how, size, pictures, extra)

    return made


def test_both_see_the_same_view():
    from featurepipe.images import ImageTransform
    from featurepipe.pretraining.teachers import pupil_transform, views_of

    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((96, 96), 2))
    common = {"interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    teacher = ImageTransform((3, 64, 64), decoder="torchvision", **common)
    pupil = pupil_transform(ImageTransform((3, 32, 32), decoder="torchvision", **common), "standard", 3, 4)
    mine = pupil.decode(smooth).reshape(3, 5, 32, 32)[:, 1:].astype(float)  # after the picture itself
    for number, view in enumerate(views_of(teacher, "standard", 3, 4)):
        theirs = view.decode(smooth).reshape(3, 32, 2, 32, 2).mean((2, 4))
        assert np.abs(mine[:, number] - theirs).mean() < 4
        assert np.abs(mine[:, number, :, ::-1] - theirs).mean() > 8


# -- sounds -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """A table of pictures with sounds; one of them is broken."""
    pytest.importorskip("soundfile")
    for n in range(12):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{n}.png")
        signal = tone(300.0 * (1 + n % 3), 0.5) if n % 2 else noise(0.5, seed=n)
        (tmp_path / f"{n}.wav").write_bytes(written(signal))
    (tmp_path / "0.wav").write_bytes(b"RIFF")
    table = tmp_path / "pairs.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "sound"], *([f"{n}.png", f"{n}.wav"] for n in range(12))])
    return table


@pytest.mark.parametrize("target", ["clusters", "bits"])
def test_a_table_pairs_pictures_with_sounds(run, pairs, target):
    notes = []
    result = run(pairs, objective="sound", sound_target=target, codes=3, epochs=1, listener=Ear(notes.append))
    assert result["card"]["data"]["images"] == 11
    assert any("1 of 12 sound files have no usable sound and are left out" in note for note in notes)
    assert np.isfinite(losses(result)).all()


def test_copies_of_a_sound_that_cannot_be_used_are_told_of_in_a_line(run, pairs):
    for n in range(12):
        (pairs.parent / f"{n}.wav").write_bytes(b"RIFF")
    with pytest.raises(PretrainingError, match="none of the 12 sound files has a sound that can be used"):
        run(pairs, objective="sound", codes=3, epochs=1)


def test_the_columns_of_pairs_may_have_other_names_and_none_is_said_to_be_left_out(run, pairs):
    told = pairs.read_text().replace("path,sound", "photo;sound").replace(".png,", ".png;")
    pairs.write_text(told)
    notes = []
    options = {"path_column": "photo", "objective": "sound", "codes": 3, "epochs": 1}
    assert run(pairs, listener=Ear(notes.append), **options)["card"]["data"]["images"] == 11
    assert not any("column sound" in note for note in notes)


@pytest.mark.slow
def test_videos_are_clips_with_a_frame_and_a_sound(run, tmp_path):
    pytest.importorskip("av")
    folder = tmp_path / "films"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.mkv").write_bytes(talking(n))
    (folder / "mute.mkv").write_bytes(talking(9, sound=False))
    notes = []
    how = {"objective": "sound", "codes": 2, "epochs": 1, "clip_seconds": 1.0}
    result = run(folder, listener=Ear(notes.append), **how)
    assert result["card"]["data"]["images"] == 8
    assert any("it has no sound track" in note for note in notes)
    for path in folder.glob("?.mkv"):
        path.unlink()
    with pytest.raises(PretrainingError, match=r"none of the 2 videos has a sound that can be used.*no sound track"):
        run(folder, "mute", **how)
    with pytest.raises(PretrainingError, match="holds videos, and the objective contrastive learns from images"):
        run(folder, "other")


def talking(seed, *, sound=True):
    """Two seconds of noise to see and hear."""
    import io

    import av

    buffer, rng = io.BytesIO(), np.random.default_rng(seed)
    with av.open(buffer, "w", format="matroska") as container:
        picture = container.add_stream("ffv1", rate=5)
        picture.width = picture.height = 32
        picture.pix_fmt = "bgr0"
        track = container.add_stream("pcm_s16le", rate=16_000, layout="mono") if sound else None
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (32, 32, 3), np.uint8), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts = number
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        if track is not None:
            samples = (3000 * rng.normal(size=(1, 32_000)) * (1 + seed)).clip(-32000, 32000).astype(np.int16)
            block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            block.sample_rate = 16_000
            container.mux(track.encode(block))
            container.mux(track.encode())
    return buffer.getvalue()


def test_sounds_of_held_back_pictures_decide_nothing(run, pairs):
    """They are not even listened to."""
    rows = [row + (["val"] if n > 8 else ["train"]) for n, row in enumerate(csv.reader(pairs.read_text().splitlines()))]
    rows[0][-1] = "split"
    pairs.write_text("".join(",".join(row) + "\n" for row in rows))
    for n in range(8, 12):
        (pairs.parent / f"{n}.wav").unlink()
    notes = []
    result = run(pairs, objective="sound", codes=3, epochs=1, batch_size=4, listener=Ear(notes.append))
    assert result["card"]["data"]["images"] == 7
    assert any("1 of 8 sound files have no usable sound" in note for note in notes)


# -- refusals -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_said_in_a_line_before_anything_is_written(run, photos, tmp_path):
    data, one = photos(per_class=4), photos(classes=("x",), per_class=1, name="one")
    flat = photos(classes=("x",), per_class=4, name="flat") / "x"
    for where, how, says in (
        (flat, {"objective": "supervised"}, r"flat/x has no labels, and the objective supervised learns classes"),
        (data.parent / "flat", {"objective": "supervised"}, r"has only the class 'x'"),
        (one / "x", {}, r"at least 2 images, and there is only one"),
        (data, {"objective": "sound"}, r"the objective sound needs sounds; give videos, or a table"),
        (data, {"objective": "distill"}, r"needs a teacher; name one with --teacher"),
        (data, {"objective": "flying"}, r"no objective is called 'flying'; use supervised, "),
        (data, {"minutes": 1.0}, r"in epochs or in minutes; leave out one"),
        (data, {"crop": 0.0}, r"crop is 0\.0; it must be above 0"),
        (data, {"teacher": "test_vit"}, r"does not use teacher; leave it out, or choose --objective distill"),
        (data, {"objective": "supervised", "codes": 4}, r"does not use codes; .* choose --objective sound"),
        (data, {"input_size": (1, 32, 32)}, r"input_size is 3, height and width"),
        (data, {"backbone": "pixels"}, r"pixels takes no|not a network of timm"),
        (data, {"backbone": "mine.safetensors"}, r"mine\.safetensors is a file; name its architecture with -b, and"),
        (data, {"objective": "distill", "teacher": "resnet5O"}, r"resnet5O"),
        (data, {"objective": "distill", "teacher": "test_vit", "distance": "l1"}, r"distance is l1; it must be cosine"),
        (data, {"objective": "sound", "sound_target": "cluster"}, r"sound_target is cluster; it must be clusters or"),
        (data, {"seed": -1}, r"seed is -1; it must be 0 or more"),
        (data, {"accumulate": 9, "batch_size": 8}, r"accumulate"),
    ):
        with pytest.raises(FeaturepipeError, match=says):
            run(where, **how)
    with pytest.raises(
        WeightsUnavailable, match=r"teacher's weights file .*none\.pth does not exist.*--teacher-weights"
    ):
        run(data, objective="distill", teacher="test_resnet", teacher_weights=tmp_path / "none.pth")
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        pretrain(data, tmp_path / "b.pt", **SMALL)
    (tmp_path / "b.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is not a backbone file of featurepipe"):
        run(data)
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".safetensors"]
