"""No command replaces a file that it reads, or one that featurepipe did not write, unless it is told to."""

import inspect
import os
import re
import shutil

import pytest

from featurepipe import cli, estimators, extract, models, stages
from featurepipe.errors import OutputError, StoreError
from featurepipe.reports import markup
from featurepipe.stores import Store

FOREIGN = b"path,label\ncat/1.jpg,cat\n"
QUICK = {"kind": "ridge", "baselines": "none"}


@pytest.fixture
def made(photos, tmp_path, monkeypatch):
    """A folder, the current one, with a table of images, their store and a model of raw pixels."""
    monkeypatch.chdir(tmp_path)
    data = photos(per_class=5)
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(data.rglob("*.*"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines, ""]))
    extract("table.csv", "s", backbone="pixels", workers=1)
    stages.probe("s", "m.safetensors", **QUICK)
    return tmp_path


def predict(output, **options):
    return stages.predict("m.safetensors", "table.csv", output, workers=1, **options)


def export(output, **options):
    return stages.export("s", output, **options)


def compare(output, **options):
    return stages.compare("s", output, kinds=["ridge", "centroid"], baselines="none", **options)


def probe(output, **options):
    return stages.probe("s", output, **QUICK, **options)


def report(output, **options):
    return stages.report("m.safetensors", output, **options)


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def figures(output, **options):
    return stages.run("photos", "r", backbone="pixels", **QUICK, **options)


READ = [  # never replaced, not even with force
    (predict, "table.csv"),
    (predict, "photos/ant/named.csv"),
    (report, "m.safetensors"),
    (export, "table.csv"),
    (export, "s/manifest.csv"),
    (export, "s/rejects.csv"),
    (compare, "table.csv"),
    (compare, "s/manifest.csv"),
]
FOREIGNERS = [
    (predict, "labels.csv"),
    (predict, "x.jsonl"),
    (predict, "x.parquet"),
    (predict, "s/manifest.csv"),
    (predict, "s/rejects.csv"),
    (export, "x.npz"),
    (export, "x.parquet"),
    (compare, "sub/table.csv"),
    (compare, "page.html"),
    (probe, "weights.safetensors"),
    (report, "photos/ant/0.jpg"),
    (report, "s/store.json"),
    (report, "page.html"),
    (figures, "r/pixels-02b0404d/metrics.json"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), READ)
def test_what_is_read_is_never_replaced(made, command, output):
    if output.endswith("named.csv"):  # an image, whatever it is called
        shutil.copy(made / "photos" / "ant" / "0.jpg", made / output)
        with open(made / "table.csv", "a") as table:
            table.write(f"{output},ant\n")
    before = content(made)
    for force in (False, True):
        why = "is an input of this command|may be the table that s was made of" + (
            "" if force else "|exists and is not a table"
        )
        with pytest.raises(OutputError, match=rf"^{output} ({why})"):
            command(output, force=force)
    assert content(made) == before


@pytest.mark.slow
@pytest.mark.parametrize(("command", "output"), FOREIGNERS)
def test_what_is_somebody_elses_stays_unless_forced(made, command, output):
    if not (made / output).exists():
        (made / output).parent.mkdir(parents=True, exist_ok=True)
        (made / output).write_bytes(FOREIGN)
        (made / "r" / "store").mkdir(parents=True, exist_ok=True)
    before = content(made)
    with pytest.raises(OutputError, match=rf"^{output} exists and is not a .*--force"):
        command(output)
    assert before.items() <= content(made).items()
    if not output.startswith("s/"):
        command(output, force=True)
        assert (made / output).read_bytes() != before[made / output]


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_another_name_of_what_is_read_is_the_same_file(made, link):
    link(made / "table.csv", made / "predictions.csv")
    with pytest.raises(OutputError, match=r"predictions\.csv is an input of this command"):
        predict("predictions.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "output"),
    [
        (predict, "p.csv"),
        (predict, "p.jsonl"),
        (predict, "p.parquet"),
        (export, "e.csv"),
        (export, "e.npz"),
        (export, "e.parquet"),
        (compare, "c.csv"),
        (compare, "c.html"),
        (probe, "other.safetensors"),
        (report, "r.html"),
    ],
)
def test_a_result_of_before_and_an_empty_file_are_replaced(made, command, output):
    (made / output).touch()
    command(output)
    assert (made / output).stat().st_size
    written = (made / output).stat().st_ino
    command(output)
    assert (made / output).stat().st_ino != written


def test_a_page_of_before_pages_said_who_wrote_them_is_replaced(made):
    report("r.html")
    page = (made / "r.html").read_text()
    before = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*/>', markup.POLICY, page)  # which it then had
    (made / "r.html").write_text(before.replace('<meta name="generator" content="featurepipe"/>', ""))
    report("r.html")
    assert (made / "r.html").read_text() == page


@pytest.mark.slow
def test_a_models_own_backbone_is_not_replaced_by_its_probe(made, small):
    model = models.load("m.safetensors")
    network = small()
    backbone = {"name": network.name, "fingerprint": network.fingerprint, "spec": network.spec}
    backbone["source"] = {"name": "test_resnet", "weights": None, "random_seed": 0}
    carrying = models.Model(model.kind, model.estimator, 1.0, backbone, model.seen, model.card)
    models.save("tuned.safetensors", carrying, module=network.module)
    extract("table.csv", "t", backbone="tuned.safetensors", workers=1)
    with pytest.raises(OutputError, match=r"tuned\.safetensors is an input of this command"):
        stages.probe("t", "tuned.safetensors", **QUICK)


@pytest.mark.parametrize("output", ["photos", "s", "table.csv", "."])
def test_run_refuses_a_folder_with_other_things(made, output):
    before = content(made)
    with pytest.raises(OutputError, match="holds other things than results"):
        stages.run("photos", output, backbone="pixels", **QUICK)
    assert content(made) == before


def saved_weights(network):
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in network.module.state_dict().items()}, "w.safetensors")


@pytest.mark.slow
def test_a_backbones_weights_are_not_replaced_by_the_probe_of_its_layers(made, small):
    saved_weights(small())
    network = {"backbone": "test_resnet", "weights": "w.safetensors", "transform": {"input_size": (3, 32, 32)}}
    extract("table.csv", "t", layers="stages", workers=1, **network)
    for force in (False, True):
        with pytest.raises(OutputError, match=r"w\.safetensors is an input of this command"):
            stages.probe_layers("t", "w.safetensors", kind="ridge", baselines="none", force=force)


@pytest.mark.slow
def test_estimators_do_not_replace_their_backbone_or_what_is_somebody_elses(made, small):
    saved_weights(small())
    images = sorted((made / "photos").rglob("*.*"))
    labels = [path.parent.name for path in images]
    extractor = estimators.FeatureExtractor("test_resnet", weights="w.safetensors")
    probe = estimators.TransferClassifier(extractor, kind="ridge").fit(images, labels)
    tuner = estimators.FineTuner(extractor, tune="head", epochs=1, verbose=False).fit(images, labels)
    (made / "mine.safetensors").write_bytes(FOREIGN)
    for made_here in (probe, tuner):
        for force in (False, True):
            with pytest.raises(OutputError, match=r"w\.safetensors is an input of this command"):
                made_here.save("w.safetensors", force=force)
        with pytest.raises(OutputError, match=r"mine\.safetensors exists and is not a model file.*--force"):
            made_here.save("mine.safetensors")
        made_here.save("other.safetensors")
        made_here.save("other.safetensors")
        made_here.save("mine.safetensors", force=True)
        assert models.load("mine.safetensors").classes.tolist() == ["ant", "bee"]
        (made / "mine.safetensors").write_bytes(FOREIGN)


@pytest.mark.slow
def test_another_table_in_the_same_folder_does_not_replace_what_results_describe(made):
    """Its root is the same; nothing else is."""
    lines = (made / "table.csv").read_text().splitlines()
    (made / "a.csv").write_text("\n".join([lines[0], *lines[1::2]]))
    (made / "b.csv").write_text("\n".join([lines[0], *lines[2::2]]))
    stages.run("a.csv", "r", backbone="pixels", **QUICK)
    before = (made / "r" / "store" / "manifest.csv").read_bytes()
    for command in (stages.run, extract):
        with pytest.raises(StoreError, match=r"r/store describes other samples of .*--force"):
            command("b.csv", "r", backbone="pixels", **(QUICK if command is stages.run else {}))
    assert (made / "r" / "store" / "manifest.csv").read_bytes() == before
    stages.run("table.csv", "r", backbone="pixels", **QUICK)  # of which the first half is known
    extract("b.csv", "r", backbone="pixels")
    extract("a.csv", "r", backbone="pixels", force=True)


def test_images_of_a_folder_that_were_all_made_anew_go_on_in_the_same_store(made, photos):
    extract("photos", "p", backbone="pixels", workers=1)
    photos(per_class=5, seed=1)
    assert extract("photos", "p", backbone="pixels", workers=1)["computed"] == 10


def test_images_that_are_gone_are_no_other_data_set(made, photos):
    extract("photos", "p", backbone="pixels", workers=1)
    shutil.rmtree("photos")
    photos(classes=("cat", "dog"), seed=7)
    assert extract("photos", "p", backbone="pixels", workers=1)["samples"] == 6


@pytest.mark.slow
def test_run_takes_an_empty_folder_one_of_before_and_with_force_any(made):
    (made / "empty").mkdir()
    for _ in range(2):
        stages.run("photos", "empty", backbone="pixels", **QUICK)
    (made / "mine").mkdir()
    (made / "mine" / "thesis.txt").write_text("x")
    stages.run("photos", "mine", backbone="pixels", force=True, **QUICK)
    assert (made / "mine" / "thesis.txt").read_text() == "x"


def test_a_folder_or_a_place_that_may_not_be_written_is_said_before_anything_is_done(made, as_nobody):
    (made / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"folder\.csv is not a file"):
        predict("folder.csv")
    locked = made / "locked"
    locked.mkdir(0o555)
    with (
        as_nobody(locked),
        pytest.raises(OutputError, match=r"x\.csv cannot be written: .*locked is read-only here; gi"),
    ):
        export(locked / "x.csv")


def test_every_command_with_an_output_has_force(made):
    for name, command in cli.main.commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        if options & {"--output", "--store"}:
            assert "--force" in options, name
            assert "force" in inspect.signature(getattr(stages, name)).parameters, name


def test_what_is_tuned_from_is_not_written_over(made):
    with pytest.raises(OutputError, match=r"m\.safetensors is an input of this command"):
        stages.finetune("m.safetensors", "photos", "m.safetensors")


# -- places that stand for others


@pytest.mark.slow
def test_a_folder_of_results_stands_for_its_store(made):
    stages.run("photos", "r", backbone="pixels", **QUICK)
    for stage in (stages.info, stages.verify):
        assert stage("r") == stage("r/store")
    assert stages.probe("r", **QUICK)["model"] == stages.probe("r/store", **QUICK)["model"]
    assert compare_of("r")["rows"] == compare_of("r/store")["rows"]
    assert extract("photos", "r", backbone="pixels", workers=1)["store"] == "r/store"
    assert stages.evaluate("r/pixels-02b0404d/model.safetensors", "r")["n"] > 0
    assert Store.open("r").path == Store.open(made / "r" / "store").path.relative_to(made)


def compare_of(store):
    return stages.compare(store, kinds=["ridge", "centroid"], baselines="none")


@pytest.mark.slow
def test_a_folder_of_results_stands_for_its_only_model(made):
    stages.run("photos", "r", backbone="pixels", **QUICK)
    model = made / "r" / "pixels-02b0404d" / "model.safetensors"
    for place in ("r/pixels-02b0404d", "r/pixels", "r/pix", "r", "s"):
        if place == "s":
            stages.probe("s", **QUICK)
            model = made / "s" / "pixels-02b0404d" / "model.safetensors"
        assert models.locate(place).absolute() == model
    assert stages.predict("r/pixels", "photos", "p.csv", workers=1)["model"] == "r/pixels-02b0404d/model.safetensors"
    assert stages.info("r/pixels-02b0404d")["kind"] == "ridge"
    assert stages.report("r/pixels")["report"] == "r/pixels-02b0404d/report.html"


@pytest.mark.slow
def test_of_several_models_one_has_to_be_named(made):
    stages.run("photos", "r", backbone="pixels", **QUICK)
    stages.run("photos", "r", backbone="color-histogram", **QUICK)
    with pytest.raises(
        models.files.ModelFileError, match=r"r holds several models.*color-histogram-.*, r/pixels-02b0404d"
    ):
        models.locate("r")
    shutil.copy("r/pixels-02b0404d/model.safetensors", "r/pixels-02b0404d/tuned.safetensors")
    with pytest.raises(models.files.ModelFileError, match=r"several models.*model\.safetensors, .*tuned\.safetensors"):
        models.locate("r/pixels")
    with pytest.raises(models.files.ModelFileError, match="nothing does not exist; make a model file"):
        models.locate("nothing")
    with pytest.raises(models.files.ModelFileError, match="photos holds no model file"):
        models.locate("photos")
