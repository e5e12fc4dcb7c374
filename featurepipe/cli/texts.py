"""Results as people read them."""

from __future__ import annotations

from typing import Any

from featurepipe.cli.options import PROBES


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _rejects(result: dict[str, Any]) -> list[str]:
    shown = [f"  rejected {id_}: {reason}" for id_, reason in list(result["rejects"].items())[:5]]
    more = result["rejected"] - len(shown)
    return [*shown, f"  … and {more} more"] if more > 0 else shown


def extract_text(result: dict[str, Any]) -> str:
    """The result of `extract`."""
    speed = f" ({result['images_per_second']:g} images/s)" if result["images_per_second"] else ""
    line = (
        f"{result['samples']} samples: {result['computed']} computed, {result['reused']} reused, "
        f"{result['rejected']} rejected in {result['seconds']:.1f} s{speed} → {result['store']}"
    )
    return "\n".join([line, *_bottleneck(result), *_rejects(result)])


def _bottleneck(result: dict[str, Any]) -> list[str]:
    """What took the time, and how near the run came to what this machine can do."""
    if not result["computed"]:
        return []
    names = {"read": "reading", "infer": "inferring", "write": "writing"}
    spent = ", ".join(f"{names[third]} {seconds:.1f} s" for third, seconds in result["stages"].items())
    line = f"  {spent}; limited by {result['limited_by']}"
    if result["efficiency"] is None:
        return [f"{line}; too short a run to say how near to this machine's ceiling"]
    return [f"{line}; {100 * result['efficiency']:.0f} % of this machine's ceiling of {result['ceiling']:g} images/s"]


def profile_text(profile: dict[str, dict[str, float]]) -> str:
    """The table of `--profile`."""
    lines = [f"  {'step':<8} {'thread s':>10} {'ms/image':>10} {'share':>7}"]
    for step, of in profile.items():
        lines.append(f"  {step:<8} {of['seconds']:>10.2f} {of['ms_per_image']:>10.2f} {_percent(of['share']):>7}")
    return "\n".join(lines)


def _figures(figures: dict[str, Any], name: str) -> str:
    before = figures["ece_uncalibrated"]
    return (
        f"  {name + ' top-1':<14} {_percent(figures['top1'])}   (n={figures['n']}, balanced "
        f"{_percent(figures['balanced_accuracy'])}, log-loss {figures['log_loss']:.3f}, ECE {figures['ece']:.3f}"
        + (f", {before:.3f} before calibration)" if f"{before:.3f}" != f"{figures['ece']:.3f}" else ")")
    )


def probe_text(result: dict[str, Any]) -> str:
    """The result of `probe`."""
    parameter = PROBES[result["kind"]]
    on_what = f" (chosen on: {result['selection']['on']})"
    chosen = f", {parameter}={result[parameter]:g}{on_what}" if parameter else ""
    on = result["evaluated_on"]
    names = {"majority": "majority class", "pixels": "raw pixels", "random_backbone": "random backbone"}
    others = [f"{names[key]} {_percent(top1)}" for key, top1 in result["baselines"].items() if top1 is not None]
    lines = [
        f"{result['kind']} probe on {result['backbone']}{chosen}",
        _figures(result[on], on),
    ]
    if others:
        lines.append(f"  {'baselines':<14} {', '.join(others)}")
    for few in result["few_shot"]:
        spread = f" ± {100 * few['std']:.1f}" if few["std"] is not None else ""
        beside = ", ".join(f"{names[key]} {_percent(mean)}" for key, mean in few["baselines"].items())
        label = f"{few['shots']} per class"
        lines.append(f"  {label:<14} {_percent(few['mean'])}{spread}" + (f"   ({beside})" if beside else ""))
    return "\n".join([*lines, f"model → {result['model']}"])


def run_text(result: dict[str, Any]) -> str:
    """The result of `run`."""
    parts = [extract_text(result["extract"]), probe_text(result["probe"]), f"report → {result['report']}"]
    return "\n".join([*parts, f"done in {result['seconds']:.1f} s"])


def evaluate_text(result: dict[str, Any]) -> str:
    """The result of `evaluate`."""
    lines = [_figures(result, result["split"])]
    if result["seen_in_training"]:
        lines.append(f"  note: the model was trained on {result['seen_in_training']} of these images; figures flatter")
    worst = sorted(result["per_class"].items(), key=lambda item: item[1]["recall"])
    worst = [(label, figures) for label, figures in worst if figures["support"]][:3]
    lines.append("  lowest recall  " + ", ".join(f"{label} {_percent(f['recall'])}" for label, f in worst))
    return "\n".join([*lines, *_rejects(result)])


def predict_text(result: dict[str, Any]) -> str:
    """The result of `predict`."""
    counts = ", ".join(f"{label} {count}" for label, count in sorted(result["labels"].items(), key=lambda i: -i[1])[:8])
    return "\n".join([f"{result['predicted']} predictions ({counts}) → {result['output']}", *_rejects(result)])


def info_text(result: dict[str, Any]) -> str:
    """The result of `info`."""
    if "model" in result:
        backbone = result["backbone"]
        return (
            f"{result['model']}: {result['kind']} probe, {len(result['classes'])} classes, on {backbone['name']} "
            f"({backbone['spec']['architecture']}, {backbone['spec']['layer']}, {backbone['fingerprint'][:8]})"
        )
    splits = ", ".join(f"{count} {name}" for name, count in result["splits"].items())
    lines = [
        f"{result['store']}: {result['samples']} samples of {result['classes']} classes ({splits}) in {result['root']}"
    ]
    for one in result["backbones"]:
        lines.append(
            f"  {one['folder']}: {one['rows']} × {one['width']} {one['dtype']}, {one['shards']} shards, "
            f"{one['bytes'] / 1e6:.1f} MB, {one['rejected']} rejected"
        )
    return "\n".join(lines)


def verify_text(result: dict[str, Any]) -> str:
    """The result of `verify`."""
    lines = [f"{result['checked']} rows are as they were written"]
    lines += [f"  problem: {problem}" for problem in result["problems"]]
    lines += [f"  set aside: {path}" for path in result["repaired"]]
    lines += [
        f"  drift of {d['folder']} ({d['precision']}, {d['decoder']}) from fp32 and Pillow, on {d['images']} images: "
        f"pixels at most {d['pixels_max']}/255, cosine median {d['cosine_median']:.5f}, lowest {d['cosine_min']:.5f}"
        for d in result.get("drift", ())
    ]
    return "\n".join(lines)
