"""A probe on several backbones next to the same probe on each of them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featurepipe import probes
from featurepipe.cards import Blocks
from featurepipe.comparisons.significance import SIGNIFICANT, mcnemar, p_text, permutation
from featurepipe.listeners import Listener
from featurepipe.matrices import FeatureMatrix, Parts
from featurepipe.probes.options import Options
from featurepipe.statistics.intervals import interval, wilson
from featurepipe.stores import JointEntry


def measure_blocks(
    entry: JointEntry, recipe: Options, joint: probes.Probe, parts: Parts, listener: Listener
) -> dict[str, Any]:
    """Fit the same probe on each block alone, and test the joint one against the best of them.

    Each chooses its own strength on the same rows. Which block alone is the best is decided on selection data, as a
    strength is (`featurepipe.probes.choose`); the test is on the reported rows, which decide nothing else.

    Parameters
    ----------
    entry : JointEntry
    recipe : Options
    joint : Probe
        The probe on all blocks.
    parts : Parts
        With all blocks.
    listener : Listener

    Returns
    -------
    dict
        ``alone``: for each block ``name, layer, fingerprint, width, chosen, selection_top1, top1, interval``; and
        ``test``: ``best`` (name), ``difference`` (of top-1), ``wins, losses, p, test`` (exact McNemar, or a permutation
        test over groups), or None where there was nothing to select on.
    """
    report, names = parts.report, entry.titles
    fitted, rights = [], []
    for name, mine in zip(names, parts.blocks, strict=True):
        listener.note(f"baseline: {name} alone")
        fitted.append(replace(recipe, value=None).fit(mine))
        rights.append(probes.predict(fitted[-1].estimator, mine.report.X) == report.y)
    alone = [
        {
            "name": name,
            "layer": member.layer,
            "fingerprint": member.fingerprint,
            "width": member.width,
            "chosen": probe.chosen,
            "selection_top1": probe.scores.get("top1"),
            "top1": float(right.mean()),
            "interval": interval(report, right).get("interval") or list(wilson(float(right.mean()), len(right))),
        }
        for name, member, probe, right in zip(names, entry.members, fitted, rights, strict=True)
    ]
    held = [probe.right for probe in fitted if probe.right is not None]
    test = None
    if len(held) == len(fitted):
        best = probes.choose(held, [probe.scores["log_loss"] for probe in fitted])
        right = probes.predict(joint.estimator, report.X) == report.y
        test = {"best": names[best], **_tested(right, rights[best], report)}
    return {"alone": alone, "test": test}


def _tested(right: np.ndarray, other: np.ndarray, report: FeatureMatrix) -> dict[str, Any]:
    p = permutation(right, other, report.units) if report.has_units else mcnemar(right, other)
    return {
        "difference": float(right.mean() - other.mean()),
        "wins": int((right & ~other).sum()),
        "losses": int((other & ~right).sum()),
        "p": p,
        "test": "permutation test over groups" if report.has_units else "exact McNemar",
    }


def block_verdict(blocks: Blocks) -> str:
    """In words: whether all backbones together are better than the best of them alone."""
    if blocks.test is None:
        return "There were no selection data, so no backbone alone was chosen to test against."
    test = blocks.test
    points = f"{100 * abs(test.difference):.1f} points"
    against = f"the best backbone alone, {test.best} (chosen on selection data)"
    how = f"{test.wins} images right only together, {test.losses} only alone; p {_p(test.p)}, {test.test}"
    if test.p >= SIGNIFICANT or not test.difference:
        return f"Together they cannot be told apart from {against}: {how}."
    which = "better" if test.difference > 0 else "worse"
    return f"Together they are {points} {which} than {against}, beyond chance: {how}."


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
