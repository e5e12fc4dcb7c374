"""The stages `push` and `pull`: a model file to a repository of the Hugging Face hub, and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from featurepipe import models
from featurepipe.errors import ModelFileError
from featurepipe.files import atomic, size_text
from featurepipe.listeners import BARS, Listener
from featurepipe.reports.markdown import MARK, called, model_card
from featurepipe.repositories import Repository
from featurepipe.results import presented
from featurepipe.surroundings import guarded

FILE = "model.safetensors"
README = "README.md"


@guarded
@presented
def push(
    model: str | Path,
    repository: str,
    *,
    public: bool = False,
    message: str | None = None,
    endpoint: str | None = None,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Send a model file to a repository of the Hugging Face hub, with a README that says how good it is.

    The README (the hub's model card) has the figures, the classes, the backbone and how to use the file. One that
    somebody else wrote is kept. No picture and no page is sent; but the model file names the folder of the data, the
    file of the backbone's weights if there was one, the classes, and its notes.

    Parameters
    ----------
    model : path
        A model file or a folder of results.
    repository : str
        ``OWNER/NAME``, or ``OWNER/NAME@BRANCH``. One that is missing is made.
    public : bool
        Whether everybody may see a repository that is made here. One that is there stays as it is.
    message : str, optional
        Text of the commit.
    endpoint : str, optional
        Address of another hub than huggingface.co, or than what HF_ENDPOINT says.
    listener : Listener
        Hears notes; see `extract`.

    Returns
    -------
    dict
        ``model, repository, files`` (their names there), ``commit`` (its address).

    Raises
    ------
    ModelFileError
        The file is not a model of whole samples.
    RepositoryError
        The hub cannot be reached, or does not let you write.
    """
    path = models.locate(model)
    loaded = models.load_of_samples(path)
    there = Repository.of(repository, endpoint)
    contents: dict[str, Path | bytes] = {FILE: path}
    if there.has(README) and MARK not in there.pull(README).read_text("utf-8", "replace"):
        listener.note(f"note: {there.name} has a {README} that featurepipe did not write; it is kept")
    else:
        contents[README] = model_card(loaded, str(there), FILE, carries=models.carries_backbone(path)).encode()
    listener.note(f"note: the file names places on this machine: {', '.join(_places(loaded))}")
    listener.note(f"sending {size_text(path.stat().st_size)} to {there.name}")
    said = message or f"{loaded.kind} on {', '.join(called(loaded))}"
    commit = there.push(contents, said, public=public)
    return {"model": str(path), "repository": str(there), "files": list(contents), "commit": commit}


def _places(model: models.Model) -> list[str]:
    """The places on this machine that a model file names."""
    weights = [one["source"]["weights"] for one in model.backbones]
    names = [one["name"] for one, short in zip(model.backbones, called(model), strict=True) if one["name"] != short]
    return [model.card.data.root, *dict.fromkeys(place for place in (*weights, *names) if place is not None)]


@guarded
@presented
def pull(
    repository: str,
    output: str | Path,
    *,
    endpoint: str | None = None,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Fetch the model file of a repository of the Hugging Face hub.

    The file is checked before it is written here: its digests, and that all of it is a model. Nothing in it is run.

    Parameters
    ----------
    repository : str
        ``OWNER/NAME``, or ``OWNER/NAME@REVISION`` with a branch, a tag or a commit.
    output : path
        Model file to write, ``FILE.safetensors``.
    endpoint : str, optional
        As for `push`.
    force : bool
        Also replace a file that featurepipe did not write.
    listener : Listener
        Hears notes; see `extract`.

    Returns
    -------
    dict
        ``repository, revision, model`` (the file here), ``kind``, ``classes`` (how many), ``backbone``.

    Raises
    ------
    RepositoryError
        The hub cannot be reached, or there is no such repository, revision or file.
    ModelFileError
        What is there is not a model of featurepipe.
    """
    path = Path(output)
    models.check_output(path, force=force)
    there = Repository.of(repository, endpoint)
    listener.note(f"fetching {FILE} of {there.name}")
    found = there.pull(FILE)
    try:
        loaded = models.load(found)
    except ModelFileError as error:
        raise ModelFileError(f"{FILE} of {there.name} is not a model of featurepipe: {error}") from error
    with atomic(path, models.load) as temporary:
        shutil.copyfile(found, temporary)
    named = " + ".join(one["name"] for one in loaded.backbones)
    said = {"repository": there.name, "revision": there.revision, "model": str(path)}
    return {**said, "kind": loaded.kind, "classes": len(loaded.classes), "backbone": named}
