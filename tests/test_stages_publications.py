"""`push` and `pull` against a hub on this machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import hub
import huggingface_hub.constants
import pytest

import featurepipe
from featurepipe import models
from featurepipe.cards import Card
from featurepipe.errors import ModelFileError, OutputError, RepositoryError
from featurepipe.reports.markdown import MARK, model_card
from featurepipe.repositories import Repository
from featurepipe.stages import Listener


class Ears(Listener):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub.serving() as found:
        yield found


@pytest.fixture
def model(photos, tmp_path):
    root = photos(per_class=6)
    store = featurepipe.extract(root, tmp_path / "st", backbone="pixels")["store"]
    return featurepipe.probe(store, tmp_path / "m.safetensors", kind="ridge", baselines="none")["model"]


def test_what_was_pushed_comes_back(server, model, tmp_path):
    ears = Ears()
    result = featurepipe.push(model, "hf:ann/bugs", endpoint=server.url, message="first", listener=ears)
    assert result["files"] == ["model.safetensors", "README.md"]
    assert result["commit"] == f"{server.url}/ann/bugs/commit/{hub.commit_of(server.repositories['ann/bugs'])}"
    assert (server.private, server.messages) == ({"ann/bugs": "private"}, ["first"])
    back = featurepipe.pull("ann/bugs@main", tmp_path / "new.safetensors", endpoint=server.url)
    assert (tmp_path / "new.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert dict(back) == {
        **{"repository": "ann/bugs", "revision": "main", "model": str(tmp_path / "new.safetensors")},
        **{"kind": "ridge", "classes": 2, "backbone": "pixels"},
    }
    assert ears.notes[0] == f"note: the file names places on this machine: {models.load(model).card.data.root}"


def test_the_readme_has_the_figures_and_no_markup_of_strangers(server, model, tmp_path):
    featurepipe.push(model, "ann/bugs", public=True, endpoint=server.url)
    readme = server.repositories["ann/bugs"]["README.md"].decode()
    card = models.load(model).card
    assert server.private == {"ann/bugs": "public"}
    assert huggingface_hub.ModelCard(readme).data.eval_results[0].metric_value == round(card.figures.top1, 4)
    assert "featurepipe pull ann/bugs -o model.safetensors" in readme
    assert str(tmp_path) not in readme  # folders of this machine are nobody's business
    (tmp_path / "photos/ant").rename(tmp_path / "photos/<b>![x](y)|`z`")
    store = featurepipe.extract(tmp_path / "photos", tmp_path / "st2", backbone="pixels")["store"]
    evil = featurepipe.probe(store, tmp_path / "e.safetensors", kind="ridge", baselines="none")["model"]
    featurepipe.push(evil, "ann/evil", endpoint=server.url)
    assert r"\<b\>!\[x\](y)\|\`z\`" in server.repositories["ann/evil"]["README.md"].decode()


def test_a_readme_by_other_hands_is_kept_and_our_own_is_renewed(server, model):
    ears = Ears()
    server.repositories["ann/bugs"] = {"README.md": b"# Mine"}
    assert featurepipe.push(model, "ann/bugs", endpoint=server.url, listener=ears)["files"] == ["model.safetensors"]
    assert server.repositories["ann/bugs"]["README.md"] == b"# Mine"
    assert ears.notes[0] == "note: ann/bugs has a README.md that featurepipe did not write; it is kept"
    server.repositories["ann/bugs"]["README.md"] = MARK.encode()
    assert featurepipe.push(model, "ann/bugs", endpoint=server.url)["files"] == ["model.safetensors", "README.md"]
    assert b"# bugs" in server.repositories["ann/bugs"]["README.md"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bugs", "'bugs' names no repository; write OWNER/NAME, or OWNER/NAME@REVISION"),
        ("ann/bugs@", "names no repository"),
        ("ann/a/b", "names no repository"),
        (
            "ann/none",
            r"ann/none: the hub has no such repository, revision or file, or hides it; check the name, or log in",
        ),
        ("ann/bugs@v9", "ann/bugs: the hub has no such repository, revision or file"),
        ("../x", r"\.\./x: Repo id must use"),
    ],
)
def test_names_that_lead_nowhere(server, tmp_path, name, message):
    server.repositories["ann/bugs"] = {}
    with pytest.raises(RepositoryError, match=message):
        featurepipe.pull(name, tmp_path / "x.safetensors", endpoint=server.url)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_branch_is_named_in_its_readme_and_words_of_strangers_are_no_links(server, model):
    result = featurepipe.push(model, "ann/bugs@dev", endpoint=server.url)
    assert result["repository"] == "ann/bugs@dev"
    assert "featurepipe pull ann/bugs@dev -o" in server.repositories["ann/bugs"]["README.md"].decode()
    loaded = models.load(model)
    backbone = {**loaded.backbone, "name": "transformers:/home/ann/secret/vit"}
    said = {"created": "www.evil.example", "notes": ["see https://evil.example"]}
    card = Card.from_json({**loaded.card.to_json(), **said})
    readme = model_card(replace(loaded, backbone=backbone, card=card), "ann/bugs", "m.safetensors", carries=False)
    assert "secret" not in readme
    assert r"transformers\:vit" in readme
    assert (r"www\.evil.example" in readme, r"https\://evil.example" in readme) == (True, True)


def test_a_hub_that_refuses_or_is_gone(server, model, tmp_path):
    server.refused = 403
    with pytest.raises(
        RepositoryError, match="does not let you do this; check the name, and log in with: hf auth login"
    ):
        featurepipe.push(model, "ann/bugs", endpoint=server.url)
    server.refused = 500
    with pytest.raises(RepositoryError, match=r"ann/bugs: .*500"):
        featurepipe.push(model, "ann/bugs", endpoint=server.url)
    with pytest.raises(RepositoryError, match=r"Connection refused.*; try again"):
        featurepipe.push(model, "ann/bugs", endpoint="http://127.0.0.1:9")


def test_what_is_no_model_is_not_written(server, model, tmp_path):
    server.repositories["ann/bugs"] = {"model.safetensors": b"<html>"}
    with pytest.raises(ModelFileError, match=r"model\.safetensors of ann/bugs is not a model of featurepipe"):
        featurepipe.pull("ann/bugs", tmp_path / "x.safetensors", endpoint=server.url)
    assert not (tmp_path / "x.safetensors").exists()
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    with pytest.raises(OutputError, match="--force"):
        featurepipe.pull("ann/bugs", tmp_path / "mine.safetensors", endpoint=server.url)
    with pytest.raises(ModelFileError, match="does not exist"):
        featurepipe.push(tmp_path / "none.safetensors", "ann/bugs", endpoint=server.url)
    assert Repository.of("ann/bugs", server.url).has("README.md") is False


@pytest.mark.processes
def test_large_files_go_apart_and_what_was_fetched_is_found_without_a_connection(model, tmp_path):
    def run(url, *arguments, **more):
        command = [sys.executable, "-m", "featurepipe", *map(str, arguments)]
        where = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", **more}
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **where})

    with hub.serving(keeps_large=True) as server:
        done = run(server.url, "push", model, "ann/bugs", "--json")
        assert (done.returncode, json.loads(done.stdout)["repository"]) == (0, "ann/bugs")
        assert len(server.large) == 1
        assert run(server.url, "pull", "ann/bugs", "-o", tmp_path / "a.safetensors").returncode == 0
        server.breaks = True
        broken = run(server.url, "push", model, "ann/other")
        assert (broken.returncode, "Traceback" in broken.stderr) == (1, False)
        assert broken.stderr.splitlines()[-1].startswith("featurepipe: ann/other: ")
    again = run(server.url, "pull", "ann/bugs", "-o", tmp_path / "b.safetensors", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "ridge of 2 classes on pixels")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    other = run(server.url, "pull", "ann/other", "-o", tmp_path / "c.safetensors", HF_HUB_OFFLINE="1")
    assert other.returncode == 1
    assert (
        "ann/other: the hub cannot be reached, and nothing of it is in the cache here" in other.stderr.splitlines()[-1]
    )
