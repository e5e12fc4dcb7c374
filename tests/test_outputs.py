"""No command replaces a file that it reads, or one that featurepipe did not write, unless it is told to."""

import inspect
import os
import shutil

import pytest

from featurepipe import cli, extract, models, stages
from featurepipe.errors import OutputError
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


READ = [(predict, "table.csv"), (report, "m.safetensors")]
FOREIGNERS = [
    (predict, "labels.csv"),
    (predict, "x.jsonl"),
    (predict, "x.parquet"),
    (predict, "s/manifest.csv"),
    (predict, "s/rejects.csv"),
    (export, "table.csv"),
    (export, "s/manifest.csv"),
    (export, "x.npz"),
    (export, "x.parquet"),
    (compare, "table.csv"),
    (compare, "page.html"),
    (probe, "weights.safetensors"),
    (report, "photos/ant/0.jpg"),
    (report, "s/store.json"),
    (report, "page.html"),
]


@pytest.mark.parametrize(("command", "output"), READ + FOREIGNERS)
def test_what_is_read_or_somebody_elses_stays(made, command, output):
    if not (made / output).exists():
        (made / output).write_bytes(FOREIGN)
    before = content(made)
    with pytest.raises(OutputError, match=rf"^{output} (is read here, |exists and is not a ).*(-o|--force)"):
        command(output)
    assert content(made) == before
    if not output.startswith("s/"):
        command(output, force=True)
        assert (made / output).read_bytes() != before[made / output]


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_another_name_of_what_is_read_is_the_same_file(made, link):
    link(made / "table.csv", made / "predictions.csv")
    with pytest.raises(OutputError, match=r"predictions\.csv is read here"):
        predict("predictions.csv")


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
    (made / "r.html").write_text(page.replace('<meta name="generator" content="featurepipe"/>', ""))
    report("r.html")
    assert (made / "r.html").read_text() == page


def test_a_models_own_backbone_is_not_replaced_by_its_probe(made, small):
    model = models.load("m.safetensors")
    network = small()
    backbone = {"name": network.name, "fingerprint": network.fingerprint, "spec": network.spec}
    backbone["source"] = {"name": "test_resnet", "weights": None, "random_seed": 0}
    carrying = models.Model(model.kind, model.estimator, 1.0, backbone, model.seen, model.card)
    models.save("tuned.safetensors", carrying, module=network.module)
    extract("table.csv", "t", backbone="tuned.safetensors", workers=1)
    with pytest.raises(OutputError, match=r"tuned\.safetensors is read here"):
        stages.probe("t", "tuned.safetensors", **QUICK)


@pytest.mark.parametrize("output", ["photos", "s", "table.csv", "."])
def test_run_refuses_a_folder_with_other_things(made, output):
    before = content(made)
    with pytest.raises(OutputError, match="holds other things than results"):
        stages.run("photos", output, backbone="pixels", **QUICK)
    assert content(made) == before


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
    with pytest.raises(OutputError, match=r"m\.safetensors is read here"):
        stages.finetune("m.safetensors", "photos", "m.safetensors")


# -- places that stand for others


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


def test_of_several_models_one_has_to_be_named(made):
    stages.run("photos", "r", backbone="pixels", **QUICK)
    stages.run("photos", "r", backbone="color-histogram", **QUICK)
    with pytest.raises(models.ModelFileError, match=r"r holds several models.*color-histogram-.*, r/pixels-02b0404d"):
        models.locate("r")
    shutil.copy("r/pixels-02b0404d/model.safetensors", "r/pixels-02b0404d/tuned.safetensors")
    with pytest.raises(models.ModelFileError, match=r"several models.*model\.safetensors, .*tuned\.safetensors"):
        models.locate("r/pixels")
    with pytest.raises(models.ModelFileError, match="nothing does not exist; make a model file"):
        models.locate("nothing")
    with pytest.raises(models.ModelFileError, match="photos holds no model file"):
        models.locate("photos")
