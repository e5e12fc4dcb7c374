"""What a repository says of a model: the README of the Hugging Face hub, with the figures of the model's own card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from featurepipe import models
from featurepipe.cards import ClassFigures, Figures
from featurepipe.media import MEDIA
from featurepipe.reports.markup import interval_text, method, percent
from featurepipe.reports.sections import local, medium_of, verdict

MARK = "<!-- written by featurepipe -->"  # what has it may be written again
FOLDS = "folds"  # instead of a split
LISTED = 50  # classes
SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$:@]|(?<=www)\.)")  # markup, and what makes a link of an address


def model_card(model: models.Model, repository: str, file: str, *, carries: bool) -> str:
    """The README of a repository that holds a model file.

    Parameters
    ----------
    model : Model
    repository : str
        ``OWNER/NAME``, or ``OWNER/NAME@BRANCH``.
    file : str
        The model file's name in it.
    carries : bool
        Whether the model file has the backbone's weights, too.

    Returns
    -------
    str
        Markdown behind the hub's YAML. It names no folder above the data's.
    """
    parts = [
        f"---\n{_metadata(model, repository)}\n---\n{MARK}\n",
        f"# {_shown(_name(repository))}\n",
        f"{_what(model)}\n",
        "## How good it is\n",
        f"{_figures(model)}\n",
        "## How to use it\n",
        _use(repository, file, medium_of(model), carries),
        "## What it answers\n",
        f"{_classes(model)}\n",
        "## How it was made\n",
        *(f"- {line}" for line in _made(model)),
        "",
    ]
    if model.card.notes:
        parts += ["## Notes\n", *(f"- {_shown(local(note))}" for note in model.card.notes), ""]
    return "\n".join(parts)


def called(model: models.Model) -> list[str]:
    """The backbones' names, without the folders of this machine in which some of them lie."""
    return [_without_folders(one["name"]) for one in model.backbones]


def _without_folders(name: str) -> str:
    family, colon, place = name.rpartition(":")
    return f"{family}{colon}{PurePath(place).name}" if PurePath(place).is_absolute() else name


def _name(repository: str) -> str:
    return repository.partition("/")[2].partition("@")[0]


def _metadata(model: models.Model, repository: str) -> str:
    """The YAML by which the hub lists the model."""
    from huggingface_hub import EvalResult, ModelCardData

    medium = MEDIA.get(medium_of(model))
    task = None if medium is None else medium.task
    said: dict[str, Any] = {"library_name": "featurepipe", "tags": ["featurepipe", "transfer-learning", model.kind]}
    said |= {} if task is None else {"pipeline_tag": task}
    if model.card.evaluated_on is not None and task is not None:
        name, value = _headline(model.card.figures)
        result = EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=_data(model),
            dataset_split=None if model.card.evaluated_on == FOLDS else model.card.evaluated_on,
            metric_type=name,
            metric_value=round(value, 4),
        )
        said |= {"model_name": _name(repository), "eval_results": [result]}
    return ModelCardData(**said).to_yaml().strip()


def _headline(figures: Figures) -> tuple[str, float]:
    return ("accuracy", figures.top1) if figures.get("top1") is not None else ("mAP", figures.map)


def _what(model: models.Model) -> str:
    names = _listed(called(model))
    task = "a set of labels" if model.is_multi_label else f"one of {len(model.classes):,} classes"
    if model.card.tuned is not None:
        how = f"The network {names} was fine-tuned"
    else:
        how = f"A {model.kind} classifier on frozen embeddings of {names}"
    return f"{how}. It gives each {medium_of(model)} {task}."


def _figures(model: models.Model) -> str:
    card = model.card
    if card.evaluated_on is None:
        return "Nobody has measured it."
    figures = card.figures
    name, value = _headline(figures)
    where = "all folds of a cross-validation" if card.evaluated_on == FOLDS else f"the {card.evaluated_on} split"
    said = f"**{percent(value)}** {name} on {where} of {_shown(_data(model))}"
    sure = f"; 95 % interval {interval_text(figures)}, {method(figures)}" if name == "accuracy" else ""
    said += f" (n = {figures.n:,}{sure}). "
    if figures.get("top1") is not None:
        said += verdict(card, figures)
    rows = [_row(name, one) for name, one in _worst(figures)]
    table = ["", "| class | n | recall | precision |", "|---|---:|---:|---:|", *rows]
    return "\n".join([said.strip(), *(table if rows else [])])


def _worst(figures: Figures) -> list[tuple[str, ClassFigures]]:
    """The classes that are found least often come first."""
    known = [(name, one) for name, one in figures.per_class.items() if None not in (one.recall, one.precision)]
    return sorted(known, key=lambda pair: pair[1].recall)[:LISTED]


def _row(name: str, one: ClassFigures) -> str:
    return f"| {_shown(name)} | {one.support:,} | {percent(one.recall)} | {percent(one.precision)} |"


def _use(repository: str, file: str, medium: str, carries: bool) -> str:
    network = (
        "" if carries else " The network's weights are not in it; if they are not on your machine, give `--weights`."
    )
    return f"""```sh
featurepipe pull {repository} -o {file}
featurepipe predict {file} FOLDER
```

```python
import featurepipe

featurepipe.pull("{repository}", "{file}")
featurepipe.predict("{file}", "FOLDER")
```

FOLDER holds {medium}s. The file is data only: nothing in it is run.{network}
"""


def _classes(model: models.Model) -> str:
    names = [str(name) for name in model.classes]
    more = f", and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"Classes: {_listed(names[:LISTED])}{more}."


def _made(model: models.Model) -> Iterator[str]:
    card = model.card
    for name, one in zip(called(model), model.backbones, strict=True):
        yield f"Backbone {_shown(name)}, fingerprint `{one['fingerprint']}`."
    licence = f"{_shown(str(card.licence))}." if card.licence else "not known here."
    yield f"Licence of the backbone's weights: {licence}"
    splits = ", ".join(f"{n:,} {name}" for name, n in card.splits.items())
    yield f"Data {_shown(_data(model))}: {splits} ({_shown(card.split_source)})."
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    yield f"Seed {card.seed}; {_shown(versions)}; {_shown(card.created)}."


def _data(model: models.Model) -> str:
    return PurePath(model.card.data.root).name or "data"


def _listed(names: list[str]) -> str:
    return ", ".join(map(_shown, names))


def _shown(text: str) -> str:
    """A stranger's words as words: no markup, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
