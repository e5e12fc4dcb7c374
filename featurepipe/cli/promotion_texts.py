"""Results of the commands about promotion, as people read them."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from featurepipe.cli.texts import columns, extract_text, figures_line, percent, probe_text

WIDTH = 80
PRETRAINING = {"similar": "similar to the pretraining", "different": "different from the pretraining"}
BOUND = (
    "Times are for all epochs, and are lower bounds: in bf16 on a CPU, with small images, or on a busy machine, a "
    "step can take several times as long."
)
NAMES = {
    "linear": "linear probe on {layer}",
    "stage": "linear probe on {layer}",
    "tune-last": "tune the last blocks",
    "tune-all": "tune the whole network",
}


def advise_text(result: dict[str, Any], *, why: bool = False) -> str:
    """The result of `advise`: the answer in a few lines, and with `why` what it rests on."""
    from featurepipe.advice import in_words  # here: it loads NumPy, which --help does without

    answer = [*_hanging(f"→ {in_words(result)}", ""), *_hanging(_promise(result), "  "), f"  $ {result['next']}"]
    if result["attentive"] == "try":
        text = "A linear probe is misleading for this network. Also try an attentive probe, which reads its tokens:"
        answer += [*_hanging(text, "  "), *(f"  $ {command}" for command in result["attentive_commands"])]
    more = _grounds(result) if why else [["reasons and figures: the same command with --why"]]
    return "\n\n".join("\n".join(block) for block in [answer, *more])


def _grounds(result: dict[str, Any]) -> list[list[str]]:
    """What the advice rests on, in blocks of lines."""
    evidence, cell = result["evidence"], result["cell"]
    blocks = [
        [f"{result['backbone']} on {result['store']}: {cell['size']} data, {PRETRAINING[cell['similarity']]}"],
        _options(result),
        [
            f"reasons, from {evidence['measured']:,} images ({evidence['measured_on']})",
            "  (the split that probe reports plays no part)",
            *(line for reason in result["reasons"] for line in _hanging(reason, "  - ")),
        ],
        [
            "evidence, from a quick ridge probe (a layer with a higher LogME is better)",
            *(f"  {line}" for line in _layers(evidence)),
            *_figures(evidence),
        ],
    ]
    if result["warnings"]:
        blocks.append(["note", *(line for warning in result["warnings"] for line in _hanging(warning, "  - "))])
    return blocks


def _promise(result: dict[str, Any]) -> str:
    """What the option is expected to bring and to cost."""
    option, cost = result["option"], result["cost_minutes"]
    gain = result["expected_gain"][option]
    if option == "linear":
        best = result["expected_gain"]["tune-all"]
        spent = f"would take {_duration(cost['tune-all'])} and " if cost else ""
        return f"Tuning the whole network {spent}is expected to gain {_gain(best)}."
    time = f", in {_duration(cost[option])}" if cost and option != "stage" else ""
    return f"Expected on new images: {_gain(gain)}{time}."


def _options(result: dict[str, Any]) -> list[str]:
    evidence, cost = result["evidence"], result["cost_minutes"]
    earlier = evidence["layers"][:-1]
    layers = {
        "linear": evidence["layer"],
        "stage": max(earlier, key=lambda row: row["top1"])["layer"] if earlier else None,
    }
    if result["option"] == "stage":
        layers["stage"] = result["layer"]
    rows = [["", "option", "points", "", "time"]]
    for option, gain in result["expected_gain"].items():
        if gain is None:
            continue
        mark = "→" if option == result["option"] else ""
        time = "seconds" if layers.get(option) else _duration(cost[option]) if cost else "unknown"
        between = "" if gain["high"] == gain["low"] else f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
        name = NAMES[option].format(layer=layers.get(option))
        rows.append([mark, name, "0" if gain["high"] == gain["low"] else f"{100 * gain['mean']:+.1f}", between, time])
    lines = columns(rows, left=2)
    bound = []
    if cost:
        speed = f"{1000 * evidence['seconds_per_image']:.1f} ms per image on {evidence['device']}"
        bound = _hanging(f"A forward pass took {speed}; {evidence['epochs']} epochs. {BOUND}", "  ")
    return ["points expected on new images, compared with the linear probe", *(f"  {line}" for line in lines), *bound]


def _layers(evidence: dict[str, Any]) -> list[str]:
    rows = [["layer", "width", "ridge top-1", "LogME"]]
    for row in evidence["layers"]:
        rows.append([row["layer"], str(row["width"]), percent(row["top1"]), f"{row['logme']:.2f}"])
    return columns(rows, left=1)


def _figures(evidence: dict[str, Any]) -> list[str]:
    baselines = ", ".join(f"{name} {percent(top1)}" for name, top1 in evidence["baselines"].items())
    lines = [
        f"  ridge probe     right on {percent(evidence['train_top1'])} of its training images, "
        f"{percent(evidence['top1'])} of new ones",
        f"  neighbours      right on {percent(evidence['knn'])}; {baselines}: similarity {evidence['similarity']:.2f}",
    ]
    if evidence["labels"] is not None:
        curve = evidence["labels"]["curve"]
        points = ", ".join(f"{percent(1 - point['error'])} with {point['images']:,}" for point in curve)
        lines += _hanging(points, f"  {'labels':<16}")
    return lines


def _gain(gain: dict[str, float]) -> str:
    mean, low, high = (100 * gain[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})" if high > 0.05 else "nothing"


def _duration(minutes: float) -> str:
    """A least time, as one would say it."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s or more" if minutes else "some seconds or more"
    return f"{minutes:.0f} min or more" if minutes < 100 else f"{minutes / 60:.1f} h or more"


def _hanging(text: str, bullet: str) -> list[str]:
    """A text in lines that fit, indented to the end of its bullet."""
    return wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def finetune_text(result: dict[str, Any]) -> str:
    """The result of `finetune`: what was kept and what it is worth, compared with the probe."""
    told, on = result["finetuning"], result["evaluated_on"]
    nothing = told["advice"] is not None and told["advice"]["tune"] is None
    lines = [_course(told), *_validation(told), *_comparison(told), figures_line(result[on], on)]
    if nothing:
        lines = [f"{told['of']}: nothing was tuned, as the advice is to keep the probe", lines[-1]]
    lines += _hanging(_verdict(told, result[on]), "  ") if told["promoted"] else []
    lines += _hanging(_refit(told["refit"]), "  ") if told["refit"] else []
    lines += [f"  {'from scratch':<14} {percent(told['scratch']['top1'])}"] if told["scratch"] else []
    if not nothing and not told["promoted"]:
        lines.append(f"  {_reason(told)}")
    if not told["promoted"]:
        lines.append("  the file holds the probe")
    if told["stopped"] == "interrupted":
        lines.append(
            "  interrupted; the file holds the best epoch so far; run the same command again to go on from there"
        )
    elif told["scratch"] and told["scratch"]["stopped"] == "interrupted":
        lines.append("  interrupted while training from scratch; run the same command again to go on from there")
    return "\n".join([*lines, f"model → {result['model']}"])


def run_text(result: dict[str, Any]) -> str:
    """The result of `run`."""
    parts = [extract_text(result["extract"]), "", probe_text(result["probe"])]
    parts += [f"report → {result['report']}"] if result["report"] else []
    if "finetune" in result:
        parts += ["", finetune_text(result["finetune"]), f"report → {result['finetune']['report']}"]
    return "\n".join([*parts, f"done in {result['seconds']:.1f} s"])


def _refit(refit: dict[str, Any]) -> str:
    """Whether the file holds a network that was trained on all images."""
    if refit["stopped"] == "after all epochs":
        return f"then trained once more, on all {refit['images']:,} images that are not reported; this is in the file"
    how = "interrupted" if refit["stopped"] == "interrupted" else "failed"
    more = "; run the same command again to go on from there" if how == "interrupted" else ""
    return f"training once more, on all images, {how}; the file holds the network from before{more}"


def _reason(told: dict[str, Any]) -> str:
    """Why the file holds the probe."""
    if not told["best_epoch"]:
        return "no epoch was better than the start" if len(told["curve"]) > 1 else "no epoch was finished"
    if told["validation"].get("behind"):
        return "the tuned network clearly lost on the held-back images"
    return "the tuned network is not expected to beat the probe by a point"


def _verdict(told: dict[str, Any], figures: dict[str, Any]) -> str:
    """What tuning came to on the images that are reported, whatever validation images had promised."""
    points = 100 * (figures["top1"] - told["probe"]["top1"])
    said = f"the probe without tuning: {_pair(told['probe'])}, so tuning "
    if abs(points) < 0.05:  # which would be shown as 0.0
        return f"{said}did not change how many of these images are right"
    if points > 0:
        return f"{said}gained {points:.1f} points on these images"
    return f"{said}did not help on these images: {-points:.1f} points fewer"


def _course(told: dict[str, Any]) -> str:
    """What was tuned, from where, for how long."""
    from featurepipe.probes import KINDS  # here: it loads NumPy, which --help does without

    kind, epochs = told["probe"]["kind"], told["curve"][-1]["epoch"]
    start = f"its probe at C={told['C']:g}" if KINDS[kind].is_cross_entropy else f"its {kind} probe"
    start = "a random head" if told["start"] != "probe" else start
    planned = told["recipe"]["epochs"] + told["recipe"]["head_epochs"]
    how, _, why = told["stopped"].partition(": ")
    ended = (
        f"stopped {how} after {epochs} of {planned} epochs: {why}" if why else f"{epochs} of {planned} epochs, {how}"
    )
    ended = ended.removesuffix(", after all epochs")
    return f"{told['of']}, {told['tune']} tuned from {start}; {ended}"


def _validation(told: dict[str, Any]) -> list[str]:
    """Top-1 of the probe, the start and the epoch that is kept: on val images, or on training images held back."""
    curve, best, validation = told["curve"], told["best_epoch"], told["validation"]
    given = validation["on"] == "val"
    probe = {"top1": validation["probe"], "log_loss": validation["probe_log_loss"]}
    found = [f"probe {_pair(probe)}", f"start {_pair(curve[0])}"]
    found += [f"epoch {best} {_pair(curve[best])}"] if best else []
    images = f"{validation['n']} val images" if given else f"{validation['n']} images: {validation['on']}"
    return _hanging(f"{', '.join(found)}; on {images}", f"  {'val' if given else 'held back':<15}")


def _comparison(told: dict[str, Any]) -> list[str]:
    """What decided whether the tuned network is kept; nothing where there is none."""
    found = told["validation"]
    if found["expected_gain"] is None:
        return []
    points = round(100 * found["expected_gain"], 1) + 0.0  # which is never -0.0
    said = (
        f"the tuned network is right where the probe is wrong on {found['network_alone']} of {found['compared']} "
        f"held-back images, the other way round on {found['probe_alone']}: expected {points:+.1f} points on new images"
    )
    return _hanging(said, "  ")


def _pair(figures: dict[str, Any]) -> str:
    """Top-1 and log-loss."""
    return f"{percent(figures['top1'])} (log-loss {figures['log_loss']:.3f})"
