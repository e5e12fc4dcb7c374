"""Faces of stages that write and check files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurepipe.results.tables import Face, count, percent, plain, share

Said = Mapping[str, Any]


def extract(said: Said) -> Face:
    """How many samples were embedded, and a row for each layer."""
    layers = said.get("layers") or [{"layer": "", "width": said["width"], "fingerprint": said["fingerprint"]}]
    rows = [{"backbone": said["backbone"], **one} for one in layers]
    title = (
        f"{said['samples']:,} samples in {said['store']}: {said['computed']:,} computed, {said['reused']:,} reused, "
        f"{said['rejected']:,} rejected in {said['seconds']:.1f} s"
    )
    columns = {"backbone": plain("backbone"), "layer": plain("layer"), "width": count("width")}
    return Face(title, rows, columns, [f"rejected {id_}: {why}" for id_, why in list(said["rejects"].items())[:5]])


def info(said: Said) -> Face:
    """What a store or a model file holds."""
    if "model" in said:
        facts = {"kind": said["kind"], "classes": len(said["classes"]), "backbone": said["backbone"]["name"]}
        facts |= {"carries its backbone": "yes" if said["carries_backbone"] else "no"}
        return Face(said["model"], _facts(facts), {"": plain("what"), "value": plain("value")})
    if "backbone_file" in said:
        facts = {key: said.get(key, "") for key in ("name", "architecture", "licence")}
        return Face(said["backbone_file"], _facts(facts), {"what": plain("what"), "value": plain("value")})
    title = f"{said['store']}: {said['samples']:,} samples of {said['classes']:,} classes in {said['root']}"
    columns = {name: plain(name) for name in ("name", "layer")}
    columns |= {name: count(name) for name in ("rows", "width", "shards", "bytes", "rejected")}
    return Face(title, said["backbones"], columns)


def _facts(facts: Said) -> list[dict[str, Any]]:
    return [{"what": name, "value": value} for name, value in facts.items()]


def verify(said: Said) -> Face:
    """How many rows are sound, and what is not."""
    found = "no problems" if said["ok"] else f"{len(said['problems']):,} problems"
    rows = [{"problem": one} for one in said["problems"]]
    return Face(f"{said['checked']:,} rows verified, {found}", rows, {"problem": plain("problem")})


def export(said: Said) -> Face:
    """What was written where."""
    if "model" in said:
        close = f"probabilities differ by at most {said['difference']:.0e}"
        return Face(f"{said['model']} → {said['output']}; {close}", [said])
    return Face(f"{said['rows']:,} × {said['width']:,} embeddings of {said['backbone']} → {said['output']}", [said])


def report(said: Said) -> Face:
    """Where the page is."""
    return Face(f"page of {said['model']} → {said['report']}", [said])


def predict(said: Said) -> Face:
    """The answers, where they have gone nowhere else; or how often each label was given."""
    place = f" → {said['output']}" if said["output"] else ""
    title = f"{said['predicted']:,} predictions{place}"
    if said.get("labelled"):
        title += f"; {percent(said['right'] / said['labelled'])} of {said['labelled']:,} true labels met"
    if found := said.get("predictions"):
        columns = {"file": plain("file"), "label": plain("label"), "confidence": share("confidence")}
        return Face(title, found, columns)
    rows = [{"label": label, "predicted": n} for label, n in sorted(said["labels"].items(), key=lambda pair: -pair[1])]
    return Face(title, rows, {"label": plain("label"), "predicted": count("predicted")})


def paint(said: Said) -> Face:
    """How much of the images is of each class."""
    rows = [{"class": name, **one} for name, one in said["classes"].items()]
    columns = {"class": plain("class"), "images": count("images"), "pixels": share("share")}
    rejects = [f"rejected {id_}: {why}" for id_, why in list(said["rejects"].items())[:5]]
    return Face(f"{said['painted']:,} masks by {said['model']} → {said['output']}", rows, columns, rejects)


def zeroshot(said: Said) -> Face:
    """The classes and what they are called in prompts."""
    rows = [{"class": label, "words": words} for label, words in said["classes"].items()]
    title = f"{len(rows):,} classes on {said['backbone']} → {said['model']}"
    return Face(title, rows, {"class": plain("class"), "words": plain("words")})


def push(said: Said) -> Face:
    """Which files went where."""
    rows = [{"file": name} for name in said["files"]]
    return Face(f"{said['model']} → {said['repository']}", rows, {"file": plain("file")}, [said["commit"]])


def pull(said: Said) -> Face:
    """What came."""
    facts = {"kind": said["kind"], "classes": said["classes"], "backbone": said["backbone"]}
    columns = {"what": plain("what"), "value": plain("value")}
    return Face(f"{said['repository']} → {said['model']}", _facts(facts), columns)


def explain(said: Said) -> Face:
    """What each map speaks for, and where it is."""
    title = f"{said['explained']:,} maps by {said['model']} → {said['output']}"
    columns = {"id": plain("id"), "of": plain("class"), "map": plain("map")}
    return Face(title, said["images"], columns)
