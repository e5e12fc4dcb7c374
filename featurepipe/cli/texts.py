"""Results as people read them."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import click

from featurepipe.vocabulary.names import HANDMADE, KINDS, MULTI_LABEL, SEMI, TEXT_STARTS

SHOWN = 20  # predictions that are printed
WIDTH = 80  # columns that most terminals have
NAMES = {**HANDMADE, "random_backbone": "random backbone", "chance": "chance"}  # of baselines
NO_REFERENCE = "No data were left to select on, so no row is named the best."
MORE_COLUMNS = "widths, sizes, speeds and uncorrected p: -o FILE.html or FILE.csv"
STARTS = {"probe": "the probe", "random head": "a random head", "scratch": "random weights"}  # of fine-tuning


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.1f} %"


def _title(result: dict[str, Any]) -> str:
    """A backbone's name, and the layer where it is a stage."""
    return " ".join([result["backbone"], *_stage(result)])


def _stage(result: dict[str, Any]) -> list[str]:
    """The layer where it is a stage."""
    return [result["layer"]] if result["layer"].startswith("stage") else []


def _rejects(result: dict[str, Any]) -> list[str]:
    shown = [f"  rejected {id_}: {reason}" for id_, reason in list(result["rejects"].items())[:5]]
    more = result["rejected"] - len(shown)
    return [*shown, f"  … and {more} more"] if more > 0 else shown


def _speed(images_per_second: float) -> str:
    """A speed with as many digits as mean something."""
    return f"{images_per_second:,.{0 if images_per_second >= 100 else 1}f} samples/s"


def extract_text(result: dict[str, Any]) -> str:
    """The result of `extract`."""
    speed = f" ({_speed(result['images_per_second'])})" if result["images_per_second"] else ""
    line = (
        f"{result['samples']} samples: {result['computed']} computed, {result['reused']} reused, "
        f"{result['rejected']} rejected in {result['seconds']:.1f} s{speed}"
    )
    layers = [f"  {one['layer']:<12} {one['width']:>6} wide → {one['folder']}" for one in result.get("layers", ())]
    return "\n".join([line, *layers, *_tokens(result), *_rejects(result), f"store → {result['store']}"])


def _tokens(result: dict[str, Any]) -> list[str]:
    """The tokens of an extraction, if it keeps any."""
    if "tokens" not in result:
        return []
    tokens = result["tokens"]
    shape = "×".join(map(str, [*tokens["grid"], tokens["width"]]))
    return [f"  {'tokens':<12} {shape}, {tokens['bytes']:,} bytes each → {tokens['folder']}"]


def _limit(result: dict[str, Any]) -> list[str]:
    """What took the time, and how near the run came to what this machine can do."""
    if not result["computed"]:
        return []
    names = {"check": "checking files", "read": "reading", "infer": "inferring", "write": "writing"}
    spent = ", ".join(f"{names[stage]} {seconds:.1f} s" for stage, seconds in result["stages"].items())
    line = f"  limited by {result['limited_by']}; "
    if result["efficiency"] is None:
        return [f"  {spent}", f"{line}the run was too short to compare it with this machine's ceiling"]
    share = f"{100 * result['efficiency']:.0f} % of this machine's ceiling of {_speed(result['ceiling'])}"
    return [f"  {spent}", f"{line}{share}"]


def profile_text(result: dict[str, Any]) -> str:
    """What `--profile` adds to the result of `extract`."""
    lines = [*_limit(result), f"  {'step':<8} {'thread s':>10} {'ms/sample':>10} {'share':>7}"]
    for step, of in result["profile"].items():
        lines.append(f"  {step:<8} {of['seconds']:>10.2f} {of['ms_per_image']:>10.2f} {percent(of['share']):>7}")
    return "\n".join(lines)


def figures_line(figures: dict[str, Any], name: str) -> str:
    """The figures on one split."""
    return "\n".join([_figures(figures, name), *_known_before(figures)])


def _known_before(figures: dict[str, Any]) -> list[str]:
    """The headline with images that were learned from, which it leaves out; nothing where there are none."""
    said = (
        ("with_copies", "one exact copy of a training sample", "exact copies of training samples"),
        ("with_seen", "one sample seen in training", "samples seen in training"),
    )
    lines = []
    for key, one, several in said:
        if key in figures:
            whole = figures[key]
            count = whole["n"] - figures["n"]
            which = one if count == 1 else f"{count} {several}"
            share = percent(whole["map"] if "map" in whole else whole["top1"])
            lines.append(f"{'':<17}with {which}: {share} of {whole['n']}")
    return lines


def _figures(figures: dict[str, Any], name: str) -> str:
    if "subset_accuracy" in figures:
        return (
            f"  {name + ' mAP':<14} {percent(figures['map'])}   (n={figures['n']}, "
            f"micro F1 {figures['micro_f1']:.3f}, macro F1 {figures['macro_f1']:.3f},\n"
            f"{'':<17}right sets {percent(figures['subset_accuracy'])}, "
            f"wrong decisions {percent(figures['hamming'])})"
        )
    headline = click.style(f"{name + ' top-1':<14} {percent(figures['top1'])}", bold=True)  # on terminals only
    line = (
        f"  {headline}   (n={figures['n']}, {_top5(figures)}balanced {percent(figures['balanced_accuracy'])}, log-loss "
        f"{figures['log_loss']:.3f}, ECE {figures['ece']:.3f})"
    )
    before = f"{figures['ece_uncalibrated']:.3f}"
    return line if before == f"{figures['ece']:.3f}" else f"{line}\n{'':<17}ECE {before} before calibration"


def _top5(figures: dict[str, Any]) -> str:
    """Of more than ten classes: how often the class is among the five likeliest."""
    return f"top-5 {percent(figures['top5'])}, " if "top5" in figures else ""


def _confused(figures: dict[str, Any]) -> list[str]:
    """Of many classes: the pairs that are most often confused."""
    if "confused" not in figures or not figures["confused"]["pairs"]:
        return []
    pairs = figures["confused"]["pairs"][:3]
    more = len(figures["confused"]["pairs"]) - len(pairs) + figures["confused"]["more"]
    said = ", ".join(f"{one['true']} taken for {one['predicted']} ({one['count']}×)" for one in pairs)
    return [f"  {'most confused':<14} {said}" + (f", and {more} more pairs" if more else "")]


def baseline_lines(result: dict[str, Any]) -> list[str]:
    """What a classifier has to beat, a line each."""
    names = {**NAMES, "majority": f'always answering "{result["majority_class"]}" (most common in train)'}
    found = [f"{names[key]}: {percent(top1)}" for key, top1 in result["baselines"].items() if top1 is not None]
    return [f"  {'' if number else 'baselines':<14} {line}" for number, line in enumerate(found)]


def probe_text(result: dict[str, Any]) -> str:
    """The result of `probe`."""
    if result["protocol"] is not None:
        return _protocol_text(result)
    on_what = f" (chosen on: {result['selection']['on']})".replace("(chosen on: nothing: ", "(not chosen: ")
    if result["kind"] == MULTI_LABEL:
        chosen = f", {_chosen(result)}{on_what}"
    else:
        parameter = KINDS[result["kind"]]
        chosen = f", {parameter}={result[parameter]:g}{on_what}" if parameter else ""
    on = result["evaluated_on"]
    return "\n".join(
        [
            *_layers(result),
            *_few_labels(result),
            f"{result['kind']} probe on {_title(result)}{chosen}",
            figures_line(result[on], on),
            *_folds(result[on]),
            *_confused(result[on]),
            *([_lowest(result[on], "average_precision", "AP")] if result["kind"] == MULTI_LABEL else []),
            *baseline_lines(result),
            *_blocks(result),
            f"model → {result['model']}",
        ]
    )


def _folds(figures: dict[str, Any]) -> list[str]:
    """The accuracy of each fold, and the interval; nothing where there are no folds."""
    if "per_fold" not in figures:
        return []
    each = ", ".join(f"{100 * one['top1']:.1f}" for one in figures["per_fold"])
    low, high = figures["interval"]
    return [
        f"{'':<17}mean of {len(figures['per_fold'])} folds {percent(figures['mean'])} ({each})",
        f"{'':<17}95 % interval {100 * low:.1f} – {100 * high:.1f} ({figures['method']})",
    ]


def _blocks(result: dict[str, Any]) -> list[str]:
    """Of several backbones: each alone, and whether they are better together; else nothing."""
    if "blocks" not in result:
        return []
    from featurepipe.cards import Blocks  # here: they load NumPy, which --help does without
    from featurepipe.comparisons.blocks import block_verdict

    blocks = Blocks.of_json(result["blocks"])
    lines = [
        f"  {'' if number else 'each alone':<14} {one.name} ({one.width} features): {percent(one.top1)} "
        f"({100 * one.interval[0]:.1f}–{100 * one.interval[1]:.1f})"
        for number, one in enumerate(blocks.alone)
    ]
    return [*lines, f"  {block_verdict(blocks)}"]


def _few_labels(result: dict[str, Any]) -> list[str]:
    """The table of `--shots`, a column for each number of labels; nothing without."""
    if not result["few_shot"]:
        return []
    few, on = result["few_shot"], result["evaluated_on"]
    whole = result["splits"]["train"] + (result["splits"]["val"] if on == "test" else 0)
    rows = [
        ["labels per class", *(str(one["shots"]) for one in few), "all"],
        ["labels in all", *(str(one["labels"]) for one in few), str(whole)],
        [f"{result['kind']} probe", *map(_mean, few), f"{100 * result[on]['top1']:.1f}"],
    ]
    for lines, names in (("semi", SEMI), ("text", TEXT_STARTS)):
        rows += [[names[key], *(_mean(one[lines][key]) for one in few), ""] for key in few[0].get(lines, ())]
    for key in few[0]["baselines"]:
        figures = [*(one["baselines"][key] for one in few), result["baselines"][key]]
        rows.append([NAMES[key], *(f"{100 * top1:.1f}" for top1 in figures)])
    repeats = few[0]["repeats"]
    draws = "1 draw" if repeats == 1 else f"{repeats} draws ± its 95 % interval"
    said = f"with few labels: {on} top-1 in %, mean of {draws}"
    return [said, *(f"  {line}" for line in columns(rows, left=1))]


def _mean(one: dict[str, Any]) -> str:
    """A mean in percent and half its interval, if it has one; of an interval that ends at 0 or 1, its longer half."""
    if one["interval"] is None:
        return f"{100 * one['mean']:.1f}"
    low, high = one["interval"]
    return f"{100 * one['mean']:.1f} ± {100 * max(one['mean'] - low, high - one['mean']):.1f}"


def _lowest(figures: dict[str, Any], key: str, name: str) -> str:
    """The three classes or labels of which a figure is lowest."""
    known = [(one[key], label) for label, one in figures["per_class"].items() if one["support"]]
    worst = sorted(known, key=lambda pair: pair[0])[:3]
    return f"  {'lowest ' + name:<14} " + ", ".join(f"{label} {percent(figure)}" for figure, label in worst)


def tasks_text(result: dict[str, Any]) -> str:
    """The result of `probe --labels`."""
    return "\n".join(f"{name}: {probe_text(one)}" for name, one in result["tasks"].items())


def _layers(result: dict[str, Any]) -> list[str]:
    """The table of `probe --layers`; nothing where there is but one."""
    if "layers" not in result:
        return []
    on = result["evaluated_on"]
    lines = [f"  {'layer':<12} {'width':>6} {'selection':>10} {on + ' top-1':>11}   95 % interval"]
    for row in result["layers"]:
        selection = percent(row["selection"]["top1"]) if row["selection"] else "–"
        interval = " – ".join(f"{100 * end:.1f}" for end in row["interval"])
        mark = "  ← chosen" if row["chosen"] else ""
        figures = f"{selection:>10} {percent(row['top1']):>11}   {interval:<13}{mark}"
        lines.append(f"  {row['layer']:<12} {row['width']:>6} {figures}".rstrip())
    return lines


def _protocol_text(result: dict[str, Any]) -> str:
    """The result of `probe --protocol`."""
    protocol, selection, on = result["protocol"], result["selection"], result["evaluated_on"]
    chosen = _chosen(result)
    how = f"chosen by {protocol['metric']} on: {selection['on']}" if selection["path"] else selection["on"]
    lines = [
        f"protocol {protocol['name']}, version {protocol['version']}, on {result['backbone']}"
        + (f": {chosen} ({how})" if chosen else ""),
        *(_protocol_figures(result[on], on) if result[on] else []),
        *baseline_lines(result),
    ]
    for few in result["few_shot"]:
        line = f"  {str(few['shots']) + ' per class':<14} {few['metric']} {percent(few['mean'])}"
        if few["interval"] is not None:
            low, high = (100 * end for end in few["interval"])
            line += f" ± {100 * few['std']:.1f}, 95 % of the mean {low:.1f} – {high:.1f},"
        lines.append(f"{line} on {on}")
    ours = protocol["name"] == "featurepipe"
    lines.append("  why:" if ours else "  differs from the published recipe:")
    lines += [f"    - {remark}" for remark in protocol["remarks"]]
    gone = "no model file: this protocol gives no linear classifier of raw embeddings"
    return "\n".join([*lines, f"model → {result['model']}" if result["model"] else gone])


def _chosen(result: dict[str, Any]) -> str:
    """What was chosen, of one classifier or of several."""
    chosen = result["selection"]["chosen"]
    parameter = (KINDS.get(result["kind"], "C") or "").replace("n_neighbors", "k")
    if not isinstance(chosen, dict):
        return "" if chosen is None else f"{parameter}={chosen:g}"
    shown = ", ".join(f"{value:g} of {label}" for label, value in list(chosen.items())[:5])
    return f"{parameter}={shown}" + (f", … ({len(chosen)} classes)" if len(chosen) > 5 else "")


def _protocol_figures(figures: dict[str, Any], name: str) -> list[str]:
    """Figures of logistic regression, of each k, or of SVMs."""
    if "map" in figures:
        return [
            f"  {name + ' mAP':<14} {percent(figures['map'])}   (n={figures['n']}, top-1 {percent(figures['top1'])})",
            *_known_before(figures),
        ]
    if "by_k" not in figures:
        return [figures_line(figures, name)]
    lines = [
        f"  {name + ' top-1':<14} {percent(one['top1'])}   (n={figures['n']}, balanced "
        f"{percent(one['balanced_accuracy'])}, k={one['k']})"
        for one in figures["by_k"]
    ]
    return lines + _known_before(figures)


def compare_text(result: dict[str, Any]) -> str:
    """The result of `compare`."""
    from featurepipe.comparisons import verdict

    on, splits = result["evaluated_on"], ", ".join(f"{n} {name}" for name, n in result["splits"].items() if n)
    head = ["", "selection", "top-1", "interval", "diff.", "p (Holm)", "backbone, layer, probe"]
    rows = [head, *(_comparison_cells(result, row) for row in result["rows"])]
    count, samples = len(result["rows"]), result["rows"][0]["n"]
    commonest = f'always answering "{result["majority_class"]}" (most common in train): {percent(result["majority"])}'
    return "\n".join(
        [
            f"{count} rows on the same {samples} {on} samples of {result['classes']} classes; 95 % intervals",
            f"  {splits}; splits {result['split_source']}",
            f"  {commonest}",
            *(f"  {line}" for line in columns(rows, left=1, last=True)),
            *wrap(f"* {verdict(result)}" if result["reference"] else NO_REFERENCE, WIDTH),
            *(_correlation(kind, found) for kind, found in (result["imagenet"] or {}).items()),
            *([f"comparison → {result['output']}"] if result["output"] else [MORE_COLUMNS]),
        ]
    )


def _comparison_cells(result: dict[str, Any], row: dict[str, Any]) -> list[str]:
    from featurepipe.comparisons import is_reference, named, p_text

    low, high = row["interval"]
    return [
        "*" if is_reference(result, row) else "",
        "–" if row["selection_top1"] is None else percent(row["selection_top1"]),
        percent(row["top1"]),
        f"{100 * low:.1f}–{100 * high:.1f}",
        "–" if row["difference"] is None else f"{100 * row['difference']:+.1f}",
        p_text(row["p_holm"]),
        named(row),
    ]


def columns(rows: list[list[str]], left: int, *, last: bool = False) -> list[str]:
    """Rows of cells as lines; the first `left` columns are aligned to the left, and the last one if that is asked."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_left = [i < left or (last and i == len(widths) - 1) for i in range(len(widths))]
    lines = (zip(row, widths, to_left, strict=True) for row in rows)
    return ["  ".join(c.ljust(w) if at_left else c.rjust(w) for c, w, at_left in line).rstrip() for line in lines]


def _correlation(kind: str, found: dict[str, Any]) -> str:
    said = f"rank correlation with ImageNet top-1 ({kind}, {found['n']} known)"
    if found["spearman"] is None:
        return f"{said}: needs at least three backbones that differ"
    return f"{said}: Spearman {found['spearman']:.2f}, Kendall {found['kendall']:.2f}"


def evaluate_text(result: dict[str, Any]) -> str:
    """The result of `evaluate`."""
    lines = [figures_line(result, result["split"])]
    if result["left_out"]:
        lines.append(f"  left out       {result['left_out']} samples that the model was trained on")
    if result["seen_in_training"] and "with_seen" not in result:
        seen = f"the model was trained on {result['seen_in_training']} of these samples"
        lines.append(f"  note: {seen}, so these figures are optimistic")
    if "subset_accuracy" in result:
        lines.append(_lowest(result, "average_precision", "AP"))
    elif len(result["per_class"]) > 2:  # of two the other recall says nothing more
        lines.append(_lowest(result, "recall", "recall"))
    lines += _confused(result)
    return "\n".join([*lines, *_rejects(result)])


def predict_text(result: dict[str, Any]) -> str:
    """The result of `predict`: the answers, if they have gone nowhere else, and how many images each label has."""
    shown, count = _predictions(result), result["predicted"]
    if count == 1 and shown and not result["rejects"] and "copied" not in result:
        return "\n".join(shown)
    labels = sorted(result["labels"].items(), key=lambda item: -item[1])
    counts = ", ".join(f"{label} {number}" for label, number in labels[:8]) + (", …" if len(labels) > 8 else "")
    place = f" → {result['output']}" if result["output"] else ""
    line = f"{count} prediction{'' if count == 1 else 's'} ({counts}){place}"
    lines = [*shown, line, *_abstention(result)]
    if result["labelled"]:
        share = percent(result["right"] / result["labelled"])
        would = " if it answered all" if "abstention" in result else ""
        lines.append(f"  right on {result['right']} of {result['labelled']} samples with a true label, {share}{would}")
        if result["seen_in_training"]:
            lines.append(f"  note: the model was trained on {result['seen_in_training']} of these samples")
    return "\n".join([*lines, *_copied(result), *_rejects(result)])


def _abstention(result: dict[str, Any]) -> list[str]:
    """At which confidence a model begins to answer, what that gave on validation data, and what it gives here."""
    found = result.get("abstention")
    if found is None:
        return []
    count, least = result["predicted"], percent(found["threshold"])
    lines = [f"  no answer below a confidence of {least}: {found['abstained']} of {count}"]
    if (on := found["validation"]) is not None:
        said = f"on {on['samples']} validation samples ({on['on']}) it answers {percent(on['coverage'])}"
        lines.append(f"  {said}, and {percent(on['accuracy'])} of these answers are right")
    if found["labelled"]:
        share = percent(found["right"] / found["labelled"])
        lines.append(f"  right on {found['right']} of {found['labelled']} answers that can be checked, {share}")
    return lines


def _copied(result: dict[str, Any]) -> list[str]:
    """What became of copies that were asked for."""
    found = result.get("copied")
    if found is None:
        return []
    there = f", {found['same']} were there already" if found["same"] else ""
    lines = [f"{found['written']} files copied → {found['folder']}{there}"]
    lines += [f"  the class {label} is in the folder {name}" for label, name in found["renamed"].items()]
    return lines + [f"  not copied: {id_} ({reason})" for id_, reason in found["failed"].items()]


def _predictions(result: dict[str, Any]) -> list[str]:
    """A line for each of the first images: label, confidence, the true label if there is one, and the file."""
    found = result.get("predictions", [])
    if not found:
        return []
    shown = [key for key in ("label", "confidence", "guess", "true_label", "file") if key in found[0]]
    rows = [[_cell(one[key]) for key in shown] for one in found[:SHOWN]]
    if len(rows) > 1:
        rows.insert(0, [key.replace("_", " ") for key in shown])
    lines = columns(rows, left=len(shown))  # the path last: it may be of any length
    more = len(found) - SHOWN
    return [*lines, f"… and {more} more; -o FILE.csv writes them all"] if more > 0 else lines


def _cell(value: Any) -> str:
    return f"{percent(value):>7}" if isinstance(value, float) else "–" if value is None else str(value)


def info_text(result: dict[str, Any]) -> str:
    """The result of `info`."""
    if "model" in result:
        return _model_text(result)
    if "backbone_file" in result:
        return _backbone_text(result)
    names = {"none": "without a split"}
    splits = ", ".join(f"{count} {names.get(name, name)}" for name, count in result["splits"].items())
    held = f"{result['samples']} samples of {result['classes']} classes ({splits}) in {result['root']}"
    if result["root"] is None:
        held = "no list of samples yet; extract is still at work, or was stopped: then run it again"
    lines = [f"{result['store']}: {held}"]
    for one in result["backbones"]:
        parts = [
            *_stage(one),
            f"{one['rows']} × {'×'.join(map(str, [*one.get('grid', ()), one['width']]))} {one['dtype']}",
            f"{one['shards']} shard{'' if one['shards'] == 1 else 's'}",
            f"{one['bytes'] / 1e6:.{1 if one['bytes'] >= 1e6 else 2}f} MB",
            f"{one['rejected']} rejected",
        ]
        lines.append(f"  {one['folder']}: {', '.join(parts)}")
    return "\n".join(lines)


def _model_text(result: dict[str, Any]) -> str:
    """What a model file holds: its head, its backbone, and whether that was tuned."""
    backbone, tuning = result["backbone"], result["card"].get("finetuning")
    lines = [
        f"{result['model']}: {result['kind']} {'head' if tuning and tuning['promoted'] else 'probe'}, "
        f"{len(result['classes'])} classes, on "
        + " + ".join(
            f"{one['name']} ({one['spec']['architecture']}, {one['spec']['layer']}, {one['fingerprint'][:8]})"
            for one in backbone.get("members", [backbone])
        )
    ]
    if found := result["card"].get("segmentation"):
        lines[0] = lines[0].replace("segmentation probe", "segmentation", 1)
        lines.append(f"  mIoU {percent(found['miou'])} of {found['n']} {found['evaluated_on']} images")
    if tuning and tuning["promoted"]:
        lines.append(
            f"  fine-tuned from {STARTS[tuning['start']]}: {tuning['tune']}, {tuning['tuned_parameters']:,} of "
            f"{tuning['parameters']:,} parameters, epoch {tuning['best_epoch']} of {len(tuning['curve']) - 1}"
        )
    elif tuning:
        lines.append("  fine-tuning did not beat the probe on validation data; this is the probe")
    if result["carries_backbone"]:
        lines.append(f"  carries its backbone and can be used as one: featurepipe extract DATA -b {result['model']}")
    return "\n".join(lines)


def _backbone_text(result: dict[str, Any]) -> str:
    """What a backbone file holds, and how it was pretrained."""
    lines = [f"{result['backbone_file']}: backbone {result.get('name', '')}, {result['architecture']}"]
    if card := result.get("pretraining"):
        try:
            lines += _pretraining_lines(card)
        except (KeyError, TypeError, ValueError, AttributeError):
            lines.append("  what it says of its pretraining cannot be read")
    elif result.get("source"):
        lines.append(f"  {result['source']}")
    lines.append(f"  licence: {result.get('licence', 'not stated')}")
    return "\n".join(lines)


def _pretraining_lines(card: dict[str, Any]) -> list[str]:
    """How a backbone was pretrained, and what probes said of it."""
    data, planned = card["data"], card["planned_epochs"]
    line = (
        f"  pretrained by {card['objective']} on {data['images']:,} images of {data['name']}: {card['epochs']} of "
        f"{planned} epoch{'s' * (planned != 1)}, seed {card['seed']}"
    )
    probe = card["probe"]
    if not probe:
        return [line]
    figures = f"kNN {percent(probe['knn'])}, linear probe {percent(probe['linear'])}"
    return [line, f"  {figures} on {probe['n']} held-back images"]


def export_text(result: dict[str, Any]) -> str:
    """The result of `export`."""
    if "model" in result:
        close = f"at most {result['difference']:.0e} from the model's probabilities on {result['compared']} inputs"
        return f"{result['backbone']} and its probe, {close} → {result['output']}"
    if "for" in result:
        flags = "--x projection_x --y projection_y --neighbors neighbors --image image"
        opened = f"look at it with: embedding-atlas {result['output']} {flags}"
        return f"{result['rows']} samples of {_title(result)} → {result['output']}\n{opened}"
    return f"{result['rows']} × {result['width']} embeddings of {_title(result)} → {result['output']}"


def verify_text(result: dict[str, Any]) -> str:
    """The result of `verify`."""
    edited = "samples accepted as edited; which rows are not as before cannot be told"
    lines = [f"{result['accepted']} {edited}"] if "accepted" in result else []
    lines += [f"{result['checked']} rows verified"]
    lines += [f"  problem: {problem}" for problem in result["problems"]]
    lines += [f"  set aside: {path}" for path in result["repaired"]]
    lines += [
        f"  drift of {d['folder']} ({', '.join([*_stage(d), d['precision'], d['decoder']])}) from fp32 and Pillow\n"
        f"    on {d['images']} images: "
        f"pixels at most {d['pixels_max']}/255, cosine median {d['cosine_median']:.5f}, lowest {d['cosine_min']:.5f}"
        for d in result.get("drift", ())
    ]
    return "\n".join(lines)
