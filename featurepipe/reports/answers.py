"""The answer in words: is it good, what goes wrong, what now; and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from featurepipe import backbones, probes
from featurepipe.cards import Card, Figures
from featurepipe.models import Model
from featurepipe.reports.galleries import Gallery
from featurepipe.reports.markup import Html, join, percent, section, tag

PAIRS = 2  # confusions that are said in words
STORE = "STORE"  # where its name is not known


def answer(model: Model, verdict: str, figures: Figures, gallery: Gallery | None, medium: str) -> Html:
    """Three questions and their answers."""
    wrong = "" if model.is_multi_label else _what_goes_wrong(figures, gallery, medium)
    if not verdict and not model.is_multi_label:
        even = f"Guessing among {len(figures.classes):,} classes gives about {percent(1 / len(figures.classes))}"
        verdict = f"No baseline was measured. {even}; the interval says how sure the figure above is."
    rows = {"Is this good?": verdict, "What goes wrong?": wrong, "What now?": tag("ul", *_what_now(model, gallery))}
    return tag(
        "dl", *(join(tag("dt", asked), tag("dd", said)) for asked, said in rows.items() if said), class_="answer"
    )


def _what_goes_wrong(figures: Figures, gallery: Gallery | None, medium: str) -> str:
    count = round((1 - figures.top1) * figures.n)
    if not count:
        return f"Nothing on these {figures.n:,} {medium}s: every one is classified correctly."
    text = f"{count:,} of {figures.n:,} {'is' if count == 1 else 'are'} wrong"
    pairs = [] if gallery is None else gallery.confusions(PAIRS)
    named = [f"“{gallery.labels[t]}” is taken for “{gallery.labels[g]}” ({n:,}×)" for t, g, n in pairs if gallery]
    most = "Most often " if count > 1 else ""
    return f"{text}. {most}{'; '.join(named)}." if named else f"{text}."


def _what_now(model: Model, gallery: Gallery | None) -> list[Html]:
    """At most three things to do."""
    store = STORE if gallery is None or gallery.store is None else shlex.quote(gallery.store)
    found = []
    if gallery is not None and gallery.advice is not None:
        found.append(_advised(gallery.advice))
    elif model.card.tuned is not None:
        found.append(tag("li", "The network is fine-tuned. The section on fine-tuning compares it with the probe."))
    if gallery is None or len(gallery.mistakes):
        text = "Check labels, copies and shortcuts: look at the mistakes below, and run "
        found.append(tag("li", text, tag("code", f"featurepipe audit {store} -o audit.html"), "."))
    use = tag("code", "featurepipe predict MODEL FILES")
    found.append(tag("li", "Classify new files: ", use, "."))
    return found


def _advised(advice: Mapping[str, Any]) -> Html:
    """The advice, its first reason, and the command that follows it."""
    words = {
        "linear": "Keep this probe; tuning the network is not expected to pay",
        "stage": f"Try the earlier layer {advice['layer']}",
        "tune-last": "Fine-tune the last blocks",
        "tune-all": "Fine-tune the whole network",
    }
    more = " and label more" if advice.get("more_labels") and advice["option"] == "linear" else ""
    parts = [f"{words[str(advice['option'])]}{more}."]
    gain = (advice.get("expected_gain") or {}).get(advice["option"])
    if gain is not None and advice["option"] != "linear":
        low, mean, high = (100 * gain[key] for key in ("low", "mean", "high"))
        parts.append(f"Expected gain on new images: {mean:.1f} points ({low:.1f} to {high:.1f}).")
    command = str(advice["next"]).split()
    if advice["option"] == "linear":
        return tag("li", " ".join(parts))
    return tag("li", " ".join(parts), " ", tag("code", " ".join(_local(word) for word in command)))


def _local(word: str) -> str:
    """A path in a command by its last name."""
    return PurePath(word).name if "/" in word else word


# -- commands -----------------------------------------------------------------------------------------------------


def commands(model: Model, gallery: Gallery | None) -> Html:
    """Commands that make the model again, on a machine that has the data and the weights."""
    store = STORE if gallery is None or gallery.store is None else gallery.store
    card = model.card
    data = PurePath(card.data.root).name or "DATA"
    lines = [extract_words(one, data, store) for one in model.backbones]
    names = ",".join(str(one["name"]) for one in model.backbones)
    which = ["--with" if len(model.backbones) > 1 else "-b", names]
    if card.tuned is not None:
        lines.append(["featurepipe", "finetune", store, "--tune", card.tuned.tune, "--seed", str(card.seed)])
    else:
        lines.append(["featurepipe", "probe", store, *which, *_probe(model), "-o", "model.safetensors"])
    lines.append(["featurepipe", "report", "model.safetensors", "--store", store, "-o", "report.html"])
    return section(
        "Make it again",
        tag("pre", "\n".join(map(shlex.join, lines)), class_="code"),
        tag("small", _remark(card)),
    )


def _remark(card: Card) -> str:
    text = "With the same data, weights, versions and seed, extract shows the fingerprint below."
    if card.tuned is not None:
        text += " The recipe of the fine-tuning is in its section; give what differs from the defaults."
    return text


def extract_words(backbone: Mapping[str, Any], data: str, store: str, *, whole: bool = False) -> list[str]:
    """The words of the command that embeds `data` as a backbone's `spec` and `source` say.

    `whole` names the transform in any case, which may have been given.
    """
    spec, source = backbone["spec"], backbone["source"]
    transform = spec["transform"]
    line = ["featurepipe", "extract", data, "-s", store]
    line += ["-b", backbones.edition(str(source["name"]), spec)]
    line += ["--weights", PurePath(source["weights"]).name] if source["weights"] else []
    for key, value in (spec["arguments"] or {}).items():
        line += ["--backbone-arg", f"{key}={value}"]
    line += ["--random-weights"] if source["random_seed"] is not None else []
    line += ["--seed", str(source["random_seed"])] if source["random_seed"] else []
    line += ["--layer", spec["layer"]] if isinstance(spec["layer"], str) and spec["layer"] != "penultimate" else []
    line += ["--pooling", spec["pooling"]] if spec["pooling"] else []
    line += ["--precision", spec["precision"]]
    if (whole or source["weights"]) and "mean" in transform and "input_size" in transform:
        line += _transform(transform)
    return line


def _transform(transform: Mapping[str, Any]) -> list[str]:
    """Flags of a transform, which weights from a file do not say themselves."""
    line = []
    for key in ("input_size", "mean", "std"):
        line += [f"--{key.replace('_', '-')}", *map(str, transform[key])] if key in transform else []
    for key in ("interpolation", "crop_pct", "crop_mode", "decoder"):
        line += [f"--{key.replace('_', '-')}", str(transform[key])] if key in transform else []
    return line


def _probe(model: Model) -> Sequence[str]:
    card = model.card
    if card.protocol is not None:
        return ["--protocol", card.protocol.name, "--seed", str(card.seed)]
    line = ["--multi-label"] if model.is_multi_label else ["--kind", model.kind]
    parameter = getattr(probes.HEADS[model.kind], "parameter", None)
    if card.selection.on == "given" and parameter is not None:
        line += [FLAGS.get(parameter, f"--{parameter}"), f"{card.selection.chosen:g}"]
    line += ["--class-weight", card.class_weight] if card.class_weight else []
    line += ["--folds", str(len(card.folds.per_fold))] if card.folds and card.folds.per_fold else []
    if card.few_shot:
        line += ["--shots", ",".join(str(one.shots) for one in sorted(card.few_shot, key=lambda one: one.shots))]
        line += ["--repeats", str(card.few_shot[0].repeats)]
        line += ["--semi"] if any(one.semi for one in card.few_shot) else []
        line += ["--text", "ZEROSHOT.safetensors"] if any(one.text for one in card.few_shot) else []
    known = {name for name, value in card.baselines.items() if value is not None}
    line += ["--baselines", "full" if "random_backbone" in known else "simple" if known else "none"]
    return [*line, "--seed", str(card.seed)]


FLAGS = {"n_neighbors": "--neighbors"}
