"""Data sets of sounds through the stages, and clips as samples."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from ears import Ear
from recorded import noise, tone, written

from featurepipe import cli, compare, evaluate, extract, predict, probe, report, stages
from featurepipe.errors import BackboneError, FinetuningError, ManifestError
from featurepipe.manifests import read
from featurepipe.stages import clips
from featurepipe.stores import Store
from featurepipe.vocabulary import TableOptions

pytest.importorskip("soundfile", reason="needs featurepipe[sound]")
NET = {"backbone": "test_resnet", "random_weights": True, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """High and low tones in noise, of two lengths."""
    root = tmp_path_factory.mktemp("tones")
    for split, count in (("train", 8), ("test", 4)):
        for label, hertz in (("high", 2000), ("low", 300)):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                seconds = 0.5 + number % 2
                signal = tone(hertz + 20 * number, seconds) + noise(seconds, seed=number)
                (root / split / label / f"{number}.wav").write_bytes(written(signal))
    return root


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("stores") / "tones.store"
    extract(folder, place, **NET, listener=Ear())
    return place


def test_every_verb_takes_sounds(folder, store, tmp_path):
    made = probe(store, tmp_path / "m.safetensors", backbone="test_resnet")
    assert made["test"]["n"] == 8
    assert set(made["baselines"]) == {"majority", "mfcc", "random_backbone"}
    assert made["baselines"]["mfcc"] == 1
    assert {entry.name for entry in Store.open(store).entries()} >= {"mfcc"}
    rows = compare(store, kinds=["ridge"])["rows"]
    assert {row["backbone"] for row in rows} >= {"mfcc"}
    measured = evaluate(tmp_path / "m.safetensors", folder)
    assert measured["n"] == 8
    assert measured["top1"] == made["test"]["top1"]
    found = predict(tmp_path / "m.safetensors", folder / "test")
    assert found["predicted"] == 8
    assert found["right"] == round(8 * made["test"]["top1"])
    page = tmp_path / "m.html"
    report(tmp_path / "m.safetensors", page)
    text = page.read_text("utf-8")
    assert "MFCC" in text
    assert "raw pixels" not in text
    assert "<img" not in text
    assert stages.verify(store, drift=True)["drift"][0]["cosine_min"] > 0.999
    with pytest.raises(FinetuningError, match="not a network that can be tuned"):
        stages.finetune(tmp_path / "m.safetensors", folder, tmp_path / "tuned.safetensors")


def test_a_second_run_computes_nothing_and_a_model_file_may_carry_the_network(folder, store, tmp_path):
    assert extract(folder, store, **NET)["computed"] == 0
    model = tmp_path / "m.safetensors"
    probe(store, model, backbone="test_resnet", baselines="none", include_backbone=True)
    assert predict(model, folder / "test" / "low")["predicted"] == 4


def test_the_note_speaks_of_sounds(folder, tmp_path):
    heard = []
    extract(folder, tmp_path / "s.store", backbone="mfcc", listener=Ear(heard.append))
    assert any(line.startswith("found 24 sounds of 2 classes") for line in heard)
    assert any(line.startswith("24 sounds · mfcc on cpu") for line in heard)


def test_broken_sounds_are_rejected_by_name_and_the_others_keep_their_vectors(folder, tmp_path):
    (tmp_path / "d").mkdir()
    whole = written(noise(2), kind="FLAC")
    for name, data in {"a.wav": written(noise()), "b.flac": whole[:9000], "c.wav": b"text", "d.wav": b""}.items():
        (tmp_path / "d" / name).write_bytes(data)
    result = extract(tmp_path / "d", tmp_path / "s.store", backbone="mfcc")
    assert result["computed"] == 1
    assert set(result["rejects"]) == {"b.flac", "c.wav", "d.wav"}
    assert result["rejects"]["d.wav"] == "the file is empty"


def test_a_folder_of_several_media_is_refused_unless_one_is_named(folder, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.wav").write_bytes(written(noise()))
    (tmp_path / "c.wav").write_bytes(written(noise()))
    with pytest.raises(ManifestError, match=r"holds 1 image and 2 sounds; choose .* --medium image or sound"):
        read(tmp_path)
    assert len(read(tmp_path, medium="sound")) == 2
    assert read(tmp_path, medium="image").left_out.files == {".wav": 2}
    with pytest.raises(ManifestError, match="medium 'smell' is unknown"):
        read(tmp_path, medium="smell")


def test_sound_tracks_of_videos_are_taken_where_sounds_are_asked_for(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    assert read(tmp_path).medium == "video"
    assert read(tmp_path, medium="sound").samples[0].id == "a.mp4"


def test_a_backbone_for_images_is_refused_on_sounds_and_a_model_of_sounds_on_images(folder, store, tmp_path):
    with pytest.raises(BackboneError, match="pixels is for images, not for sounds"):
        extract(folder, tmp_path / "s.store", backbone="pixels")
    model = tmp_path / "m.safetensors"
    probe(store, model, backbone="test_resnet", baselines="none")
    with pytest.raises(ManifestError, match="no sounds under"):
        evaluate(model, "data/digits/test/0")


def test_clips_are_samples_of_their_own_with_the_label_of_their_file(tmp_path):
    (tmp_path / "d" / "x").mkdir(parents=True)
    (tmp_path / "d" / "x" / "a.wav").write_bytes(written(noise(5)))
    (tmp_path / "d" / "x" / "b.wav").write_bytes(written(noise(1)))
    (tmp_path / "d" / "x" / "c.wav").write_bytes(b"broken")
    heard = []
    found = clips.read(tmp_path / "d", TableOptions(clip_seconds=2, hop_seconds=1.5), Ear(heard.append))
    assert [sample.id for sample in found.samples] == [
        "x/a.wav@0.0-2.0",
        "x/a.wav@1.5-3.5",
        "x/a.wav@3.0-5.0",
        "x/b.wav@0.0-1.0",
        "x/c.wav",
    ]
    assert {sample.label for sample in found.samples} == {"x"}
    assert found.samples[1].part == "1.5-3.5"
    assert "5 clips of 3 sounds" in heard
    result = extract(tmp_path / "d", tmp_path / "s.store", backbone="mfcc", clip_seconds=2.0, hop_seconds=1.5)
    assert result["computed"] == 4
    assert list(result["rejects"]) == ["x/c.wav"]


def test_clips_of_a_file_stay_on_one_side(tmp_path):
    for label in "ab":
        (tmp_path / "d" / label).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "d" / label / f"{number}.wav").write_bytes(written(noise(3, seed=ord(label) + 9 * number)))
    extract(tmp_path / "d", tmp_path / "s.store", backbone="mfcc", clip_seconds=1.0)
    made = probe(tmp_path / "s.store", tmp_path / "m.safetensors", baselines="none")
    predicted = predict(tmp_path / "m.safetensors", tmp_path / "d", clip_seconds=1.0)
    assert predicted["predicted"] == 36
    assert all(count % 3 == 0 for count in made["splits"].values())


def test_clips_need_seconds_and_a_medium_that_has_them(folder):
    with pytest.raises(ManifestError, match="add --clip-seconds"):
        clips.read(folder, TableOptions(hop_seconds=1), Ear())
    with pytest.raises(ManifestError, match="images have no clips, only sounds and videos have"):
        clips.read("data/digits/test/0", TableOptions(clip_seconds=1), Ear())


def test_the_command_line_takes_sounds(folder, tmp_path):
    runner = CliRunner()
    place = str(tmp_path / "run")
    done = runner.invoke(
        cli.main, ["run", str(folder), "-o", place, "-b", "mfcc", "--clip-seconds", "0.5", "--json", "-q"]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["samples"] == 48
    assert result["test"]["n"] == 16
    with open(tmp_path / "p.csv", "w") as file:
        done = runner.invoke(
            cli.main, ["predict", result["model"], str(folder / "test"), "--medium", "sound", "-o", file.name + ".csv"]
        )
    assert done.exit_code == 0, done.output
    with open(tmp_path / "p.csv.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8


def test_a_table_of_sounds_says_its_medium(folder, tmp_path):
    files = sorted(folder.rglob("*.wav"))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((path, path.parent.name) for path in files)])
    assert read(tmp_path / "t.csv").medium == "sound"
    assert np.all([sample.part is None for sample in read(tmp_path / "t.csv").samples])
