"""Probes of several backbones: blocks of one feature matrix, their model file, and what is refused."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from featurepipe import cli, evaluate, export, extract, finetune, matrices, models, predict, probe, probes, report
from featurepipe.errors import (
    BackboneError,
    DependencyMissing,
    FinetuningError,
    FormatTooNew,
    ManifestError,
    ModelFileError,
    ProbeError,
    StoreError,
)
from featurepipe.estimators import TransferClassifier
from featurepipe.matrices import FeatureMatrix, join
from featurepipe.stages import galleries
from featurepipe.stores import JointEntry, Store

SPLITS = ("train", "test")
FAST = {"kind": "ridge", "baselines": "none"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of two hand-made entries, and its pictures: noise, brighter from class to class."""
    folder, rng = tmp_path_factory.mktemp("blocks"), np.random.default_rng(0)
    for split in SPLITS:
        for number, label in enumerate(("ant", "bee", "cat")):
            (folder / "photos" / split / label).mkdir(parents=True)
            for index in range(8):
                pixels = 20 * number + rng.integers(0, 120, (32, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / split / label / f"{index}.png")
    for name in ("color-histogram", "hog"):
        extract(folder / "photos", folder / "s.store", backbone=name, workers=1)
    return folder / "s.store", folder / "photos"


def matrix_of(store, *names):
    opened = Store.open(store)
    entries = {name: opened.choose(name) for name in names}
    joined, _ = join({name: matrices.outline(opened, entry) for name, entry in entries.items()})
    return matrices.fill(JointEntry(tuple(entries.values())), joined)


def balanced(matrix, rows):
    """Each block by scikit-learn's scaler, and so that its variances add up to a multiple of the root of their sum."""
    parts = np.split(matrix.X.astype(float), np.cumsum(matrix.blocks)[:-1], axis=1)
    scaled = [StandardScaler().fit(part[rows]).transform(part) for part in parts]
    sums = [part[rows].var(axis=0).sum() for part in scaled]
    share = np.sum(sums) / np.sum(np.sqrt(sums))
    return np.concatenate(
        [part * np.sqrt(share / np.sqrt(total)) for part, total in zip(scaled, sums, strict=True)], axis=1
    )


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
@pytest.mark.parametrize("blocks", [(30, 4), (5, 60), (3, 2, 40)])
def test_a_joint_probe_is_scikit_learns_on_standardised_and_balanced_blocks(kind, blocks):
    rng = np.random.default_rng(sum(blocks))
    y = np.arange(90) % 3
    sizes = 10.0 ** np.arange(len(blocks))  # blocks differ in size a hundredfold, features within one by a third
    X = np.concatenate([s * rng.normal(size=(90, w)) for s, w in zip(sizes, blocks, strict=True)], axis=1)
    X = (X * rng.uniform(0.7, 1, sum(blocks)) + y[:, None] * 0.3).astype(np.float32)
    matrix = FeatureMatrix(y, X, y, y, y, blocks=blocks)
    Z = balanced(matrix, slice(None))
    wanted = {"logistic": LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000), "ridge": RidgeClassifier(10)}[kind]
    found = probes.fit(kind, X, y, value=wanted.get_params().get("C", 10), blocks=blocks)
    scores = wanted.fit(Z, y).decision_function(Z)
    np.testing.assert_allclose(found.estimator.decision_function(X), scores, atol=2e-3)
    alone = probes.fit(kind, X, y, value=wanted.get_params().get("C", 10))
    assert np.abs(alone.estimator.decision_function(X) - scores).max() > 0.02  # the balance is seen


@pytest.mark.parametrize("kind", ["logistic", "ridge", "svm", "lda", "mlp"])
def test_a_block_counts_alike_however_it_is_scaled(kind):
    rng = np.random.default_rng(1)
    y = np.arange(60) % 2
    X = (rng.normal(size=(60, 12)) + y[:, None] * rng.normal(size=12)).astype(np.float32)
    held = [probes.fit(kind, X * f, y, X[:20] * f, y[:20], value=0.5, blocks=(9, 3)) for f in scaled(9, 3)]
    scores = [one.predict_proba(X * f) for one, f in zip(held, scaled(9, 3), strict=True)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def scaled(first, second):
    return np.ones(first + second, np.float32), np.repeat([1, 1024], [first, second]).astype(np.float32)


def test_predictions_of_the_model_file_on_fresh_files_are_those_of_the_probe(stored, tmp_path):
    store, data = stored
    made = probe(store, tmp_path / "m.safetensors", with_=["color-histogram", "hog"], **FAST)
    matrix = matrix_of(store, "color-histogram", "hog")
    test = matrix.take(matrix.split == "test")
    wanted = models.load(made["model"]).predict_proba(test.X)
    found = predict(made["model"], data / "test", probabilities=True)["predictions"]
    answers = np.array([[one[f"p:{label}"] for label in ("ant", "bee", "cat")] for one in found])
    np.testing.assert_allclose(answers, wanted, atol=1e-5)
    right = np.mean([one["label"] == one["true_label"] for one in found])
    for where in (data, store):
        assert evaluate(made["model"], where)["top1"] == made["test"]["top1"] == right


def test_each_backbone_alone_is_a_baseline_and_the_best_one_is_tested_against(stored, tmp_path):
    store, _ = stored
    path = tmp_path / "m.safetensors"
    made = probe(store, path, backbone="hog", with_=["color-histogram"], shots=[2], repeats=2, **FAST)
    alone = made["blocks"]["alone"]
    singles = [probe(store, tmp_path / "one.safetensors", backbone=one["name"], **FAST) for one in alone]
    assert [one["name"] for one in alone] == ["hog", "color-histogram"]
    assert [one["top1"] for one in alone] == [one["test"]["top1"] for one in singles]
    assert [one["selection_top1"] for one in alone] == [one["val"]["top1"] for one in singles]
    assert all(one["interval"][0] <= one["top1"] <= one["interval"][1] for one in alone)
    test, tops = made["blocks"]["test"], {one["name"]: one["top1"] for one in alone}
    assert test["difference"] == pytest.approx(made["test"]["top1"] - tops[test["best"]])
    assert (test["wins"] - test["losses"]) / made["test"]["n"] == pytest.approx(test["difference"])
    assert json.loads(json.dumps(models.load(path).card.to_json()))["blocks"] == made["blocks"]
    page = (tmp_path / "m.html", report(path))[0].read_text("utf-8")
    assert "Each backbone alone" in page
    assert "hog alone" in page
    assert "the best backbone alone" in page
    assert made["few_shot"][0]["shots"] == 2
    assert made["majority_class"] == "ant"


def test_the_command_line_says_it_in_words_and_in_json(stored):
    store, _ = stored
    line = ["probe", str(store), "--with", "hog,color-histogram", "--kind", "ridge"]
    said = CliRunner().invoke(cli.main, line)
    assert said.exit_code == 0, said.output
    assert "ridge probe on hog + color-histogram" in said.stdout
    assert "each alone     hog (" in said.stdout
    assert "Together they" in said.stdout
    found = json.loads(CliRunner().invoke(cli.main, [*line, "--json"]).stdout)
    assert found["backbone"] == "hog + color-histogram"
    assert len(found["blocks"]["alone"]) == 2
    text = CliRunner().invoke(cli.main, ["info", found["model"]]).stdout
    assert "on hog (hog, hog, " in text
    assert " + color-histogram (" in text
    for option in (["--layers", "all"], ["--protocol", "clip"]):
        wrong = CliRunner().invoke(cli.main, ["probe", str(store), "--with", "hog", *option])
        assert wrong.exit_code == 2
        assert "--with cannot be combined" in wrong.stderr


def test_the_file_is_of_a_new_version_and_a_file_of_one_backbone_is_not(stored, tmp_path, monkeypatch):
    store, _ = stored
    both = probe(store, tmp_path / "both.safetensors", with_=["hog", "color-histogram"], **FAST)["model"]
    one = probe(store, tmp_path / "one.safetensors", backbone="hog", **FAST)["model"]
    assert (version_of(both), version_of(one)) == ("2.0", "1.2")
    assert [member["name"] for member in models.load(both).backbones] == ["hog", "color-histogram"]
    assert "members" not in models.load(one).backbone
    monkeypatch.setattr(models.files, "JOINT_VERSION", "1.2")  # as an earlier featurepipe
    with pytest.raises(FormatTooNew, match=r"has model format 2\.0"):
        models.load(both)


def version_of(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["featurepipe"])["encoding-version"]


def test_who_takes_one_backbone_says_so_in_a_line(stored, tmp_path):
    store, data = stored
    path = probe(store, tmp_path / "m.safetensors", with_=["hog", "color-histogram"], **FAST)["model"]
    with pytest.raises(ModelFileError, match=r"hog \+ color-histogram, and fine-tuning takes one backbone"):
        finetune(path, data)
    with pytest.raises(ModelFileError, match="an estimator takes one backbone"):
        TransferClassifier.load(path)
    with pytest.raises(BackboneError, match=r"joint probe on hog \+ color-histogram"):
        extract(data, tmp_path / "other.store", backbone=path)
    with pytest.raises(ModelFileError, match="an ONNX file takes one backbone"):
        export(path, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="--weights is for one backbone"):
        predict(path, data, weights=tmp_path / "w.safetensors")
    with pytest.raises((FinetuningError, StoreError)):
        finetune(store, backbone="hog")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"with_": ["nothing"]}, StoreError, "no backbone nothing here; choose with -b from: color-hist"),
        ({"with_": ["hog", "hog"]}, StoreError, "hog is named twice"),
        ({"backbone": "hog", "with_": ["hog"]}, StoreError, "hog is named twice"),
        ({"with_": ["hog"]}, StoreError, "several backbones match"),
        ({"with_": ["hog", "color-histogram"], "kind": "knn"}, ProbeError, "a knn probe takes features as they are"),
        ({"with_": ["hog", "color-histogram"], "kind": "centroid"}, ProbeError, "use one of logistic, ridge, svm"),
        ({"with_": ["hog", "color-histogram"], "multi_label": True}, ProbeError, "does not work with sets of labels"),
        ({"with_": ["hog", "color-histogram"], "shots": [2], "semi": True}, ProbeError, "leave out --semi, or --with"),
        ({"with_": ["hog", "color-histogram"], "include_backbone": True}, ProbeError, "--include-backbone is for a"),
        ({"with_": ["hog", "color-histogram"], "weights": "w.pt"}, ProbeError, "--weights is for a single backbone"),
    ],
)
def test_bad_requests_are_refused_in_a_line(stored, options, error, message):
    with pytest.raises(error, match=message):
        probe(stored[0], **options)


def test_a_store_with_one_entry_has_nothing_to_join(photos, tmp_path):
    store = extract(photos(("ant", "bee"), 5), tmp_path / "s.store", backbone="hog", workers=1)["store"]
    with pytest.raises(StoreError, match=r"hog is named twice.*get more with: featurepipe extract DATA -s"):
        probe(store, with_=["hog"])


def test_an_entry_that_lacks_samples_is_not_filled_and_they_are_named(stored, tmp_path):
    store, data = stored
    other = extract(data / "train", tmp_path / "other.store", backbone="hog", workers=1)["store"]
    with pytest.raises(ManifestError, match=r"share no sample; their samples are matched by id"):
        probe(store, backbone="color-histogram", with_=[other])  # ids are paths below another folder
    few = FeatureMatrix(np.array(["a", "b"], object), np.ones((2, 2)), *(np.array(["x", "y"], object),) * 3)
    more = FeatureMatrix(np.array(["b", "c"], object), np.zeros((2, 1)), *(np.array(["y", "x"], object),) * 3)
    joined, lacking = join({"few": few, "more": more})
    assert joined.ids.tolist() == ["b"]
    assert joined.X.tolist() == [[1, 1, 0]]
    assert lacking == {"few": ["c"], "more": ["a"]}
    assert matrices.lacking_notes(lacking) == [
        "left out, as few has nothing of it: c",
        "left out, as more has nothing of it: a",
    ]
    with pytest.raises(ManifestError, match="a has label x for few and y for other"):
        join({"few": few, "other": FeatureMatrix(few.ids, few.X, few.y[::-1], few.split, few.digests)})


@pytest.fixture
def both(photos, tmp_path):
    """A table of pictures and of their texts."""
    data, words = photos(("ant", "bee"), 10), {"ant": "six legs and sand", "bee": "yellow stripes and honey"}
    table = tmp_path / "both.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "text", "label", "split"])
        for number, path in enumerate(sorted(data.rglob("*.*g"))):
            label = path.parent.name
            split = "train" if number % 10 < 6 else "test"
            writer.writerow([f"n{number}", path, f"{words[label]} {number // 2}", label, split])
    return table


def test_pictures_and_texts_of_a_table_are_joined_by_id(both, tmp_path):
    pictures = extract(both, tmp_path / "i.store", backbone="color-histogram", workers=1)["store"]
    texts = extract(both, tmp_path / "t.store", backbone="tfidf", medium="text", workers=1)["store"]
    made = probe(pictures, tmp_path / "m.safetensors", with_=[texts], **FAST)
    again = probe(pictures, tmp_path / "n.safetensors", with_=[Store.open(texts).choose().folder], **FAST)
    assert made["backbone"] == "color-histogram + tfidf"
    assert made["test"] == again["test"]
    found = predict(made["model"], both)
    assert found["predicted"] == 20
    assert found["seen_in_training"] == 12
    assert evaluate(made["model"], both)["top1"] == made["test"]["top1"]
    with pytest.raises(StoreError, match="holds no embeddings of the model's backbone tfidf"):
        evaluate(made["model"], pictures)


def test_samples_that_share_a_text_or_a_picture_stay_together_and_copies_share_all():
    ids = np.array(list("abcd"), object)
    none = np.full(4, None)
    pictures = FeatureMatrix(ids, np.ones((4, 1)), none, none, np.array(["p1", "p1", "p2", "p3"], object))
    texts = FeatureMatrix(ids, np.ones((4, 1)), none, none, np.array(["t1", "t1", "t1", "t2"], object))
    joined, _ = join({"pictures": pictures, "texts": texts})
    assert len(set(joined.digests)) == 3
    assert joined.digests[0] == joined.digests[1]
    assert len(set(joined.units)) == 2
    assert len(set(joined.units[:3])) == 1
    same, _ = join({"one": pictures, "other": pictures})
    assert same.digests.tolist() == pictures.digests.tolist()
    assert same.groups is None


def test_a_missing_extra_of_the_second_backbone_is_named(stored, tmp_path, monkeypatch):
    store, data = stored
    path = probe(store, tmp_path / "m.safetensors", with_=["color-histogram", "hog"], **FAST)["model"]
    monkeypatch.setitem(__import__("sys").modules, "skimage.feature", None)
    with pytest.raises((DependencyMissing, BackboneError), match="scikit-image"):
        predict(path, data / "test")


def test_tables_of_text_files_keep_their_files(tmp_path):
    from featurepipe import manifests

    (tmp_path / "a.txt").write_text("words")
    table = tmp_path / "t.csv"
    table.write_text("path,text\na.txt,other words\n")
    assert manifests.read(table, medium="text").samples[0].place == "a.txt"


def test_what_a_backbone_was_tuned_on_is_found_whichever_of_its_contents_are_copies(both, tmp_path, monkeypatch):
    table = tmp_path / "shared.csv"
    rows = list(csv.reader(both.read_text().splitlines()))
    held_out = sorted(row for row in rows[1:] if row[4] == "test")
    held_out[0][2] = rows[1][2]  # a text of train, while its picture is new
    held_out[-1][2] = "a text of its own"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    pictures = extract(table, tmp_path / "i.store", backbone="color-histogram", workers=1)["store"]
    texts = extract(table, tmp_path / "t.store", backbone="tfidf", medium="text", workers=1)["store"]
    digests = {row.sample.id: row.digest for row in Store.open(texts).rows()}
    tuned = models.digest_keys([digests[held_out[-1][0]]])
    monkeypatch.setattr(models, "seen_in_tuning", lambda source, _: tuned[: source["name"] == "tfidf"])
    with pytest.raises(ProbeError, match="tfidf was tuned on 1 of the 7 samples"):
        probe(pictures, tmp_path / "m.safetensors", with_=[texts], **FAST)


def test_contents_that_are_asked_for_are_those_of_any_backbone_and_shared_ones_are_said(both, tmp_path):
    pictures = extract(both, tmp_path / "i.store", backbone="color-histogram", workers=1)["store"]
    lines = both.read_text().splitlines()
    table = tmp_path / "texts.csv"
    table.write_text("\n".join(lines).replace("honey 8", "honey 5"))  # n16 and n17 are of test, n10 and n11 of train
    texts = extract(table, tmp_path / "t.store", backbone="tfidf", medium="text", workers=1)["store"]
    digests = [row.digest for row in Store.open(pictures).rows() if row.sample.id != "n3"]
    made = probe(pictures, tmp_path / "m.safetensors", with_=[texts], among=digests, **FAST)
    assert sum(made["splits"].values()) == 19
    said = "2 of 8 test samples have the same content for tfidf as training samples; the figures are optimistic"
    assert said in made["notes"]


def test_where_each_sample_is_rejected_by_a_backbone_the_first_reason_is_said(both, tmp_path):
    pictures = extract(both, tmp_path / "i.store", backbone="color-histogram", workers=1)["store"]
    texts = extract(both, tmp_path / "t.store", backbone="tfidf", medium="text", workers=1)["store"]
    made = probe(pictures, tmp_path / "m.safetensors", with_=[texts], **FAST)
    path = next(row["path"] for row in csv.DictReader(both.read_text().splitlines()))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    table = tmp_path / "bad.csv"
    table.write_text(f"id,path,text\na,{path},\nb,broken.png,yellow stripes\n")
    with pytest.raises(
        ManifestError,
        match=r"each sample is rejected for color-histogram or tfidf; first reason: .*\(b\)",
    ):
        predict(made["model"], table)


def test_the_page_of_a_joint_probe_has_pictures_a_map_and_look_alikes(stored, tmp_path):
    store, _ = stored
    made = probe(store, tmp_path / "m.safetensors", backbone="hog", with_=["color-histogram"], **FAST)
    result = report(made["model"], store=store)
    page = (tmp_path / "m.html").read_text("utf-8")
    assert (result["missing"], result["shown"]) == (None, 48)
    assert "data:image/jpeg" in page or "data:image/webp" in page or "data:image/png" in page
    for title in ("Look at these first", "Map of the embeddings", "Each backbone alone"):
        assert title in page
    assert page.count("Together they ") == 2  # first of all, and next to the figures of each alone
    model = models.load(made["model"])
    found = galleries.gather(tmp_path / "m.safetensors", model, store, galleries.Way(0, "pca"))
    matrix = matrix_of(store, "hog", "color-histogram")
    says = model.classes[model.predict_proba(matrix.X).argmax(axis=1)]
    answers = dict(zip(matrix.ids.tolist(), says.tolist(), strict=True))
    assert {id_: found.labels[guess] for id_, guess in zip(found.ids, found.guess, strict=True)} == answers
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in np.split(matrix.X, matrix.blocks[:1], 1)]
    (asked, alike), *_ = found.alike.items()
    place = {id_: number for number, id_ in enumerate(matrix.ids.tolist())}
    a, others = place[found.ids[asked]], [place[found.ids[one.row]] for one in alike]
    cosines = np.mean([part[others] @ part[a] for part in units], axis=0)
    np.testing.assert_allclose([one.cosine for one in alike], cosines, atol=1e-5)


def test_the_page_of_a_joint_probe_says_which_backbone_its_store_lacks(stored, tmp_path):
    store, photos = stored
    made = probe(store, tmp_path / "m.safetensors", backbone="hog", with_=["color-histogram"], **FAST)
    extract(photos, tmp_path / "other.store", backbone="hog", workers=1)
    with pytest.raises(StoreError, match=r"other\.store holds no embeddings of the model's backbone color-histogram"):
        report(made["model"], store=tmp_path / "other.store")
