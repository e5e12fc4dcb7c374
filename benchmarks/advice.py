"""What advice costs, with constants fitted to other data sets: regret over finished cases; and how often the gate errs.

    python benchmarks/promotion.py SETS/digits --sizes 100,400 --options probe,stage,last,all … --json cases/digits.json
    python benchmarks/advice.py cases/*.json

A case is a data set, a number of training images and a backbone, on which `promotion.py` has tried everything that
advice can say: the probe, an earlier layer, the last blocks, the whole network. Its regret is the best of these test
figures less that of what was advised. For each data set the constants of the advice are fitted to the cases of all
others, so that nothing is judged on what it was fitted to; next to it stand rules that always say the same. The
constants that all cases together come to are printed last: they are `featurepipe.advice.FITTED`.

The gate decides on held-back images whether a tuned network is kept. It errs where a network is kept that is worse on
the test images than the probe, or where a better one is refused. `--simulate` does the same with made-up networks whose
true gain is known.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from promotion import NAMES
from rivals import table

from featurepipe import advice, finetuning

CONSTANT = {"always probe": "linear", "always last": "tune-last", "always all": "tune-all"}
PROBE = 0.8  # its accuracy in simulations
Case = Mapping[str, Any]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, nargs="*", help="JSON of promotion.py")
    parser.add_argument("--simulate", action="store_true")
    return parser.parse_args()


def read(paths: Sequence[Path]) -> list[Case]:
    """All cases that tried everything."""
    found = [one for path in paths for one in json.loads(path.read_text("utf-8"))["results"]]
    return [one for one in found if {"probe", "last", "all"} <= one["top1"].keys()]


def fit(cases: Sequence[Case]) -> advice.Constants:
    """Constants of least squared error of the promised gains, in points of top-1."""
    error = np.array([1 - one["advice"]["evidence"]["top1"] for one in cases])
    all_, last = (np.array([one["top1"][name] - one["top1"]["probe"] for one in cases]) for name in ("all", "last"))
    share = float(np.sum(all_ * error) / np.sum(error**2))
    ratio = float(np.sum(last * error) / np.sum(error**2)) / share
    spread = float(np.sqrt(np.average((all_ / error - share) ** 2, weights=error)))
    return advice.Constants(round(share, 3), round(ratio, 2), round(spread, 3))


def regret(case: Case, option: str) -> float:
    """The best of what was tried, less an option's figure; of an earlier layer that was not tried, the probe's."""
    tried = {one: case["top1"][NAMES[one]] for one in advice.OPTIONS if NAMES[one] in case["top1"]}
    return max(tried.values()) - tried.get(option, tried["linear"])


def judge(cases: Sequence[Case]) -> None:
    """Print each case's advice and regret, and what constant rules come to."""
    rows, regrets, covered = [], {"advice": [], **{name: [] for name in CONSTANT}}, []
    for case in cases:
        constants = fit([one for one in cases if one["data"] != case["data"]])
        found = advice.decide(case["advice"]["evidence"], constants)
        regrets["advice"].append(regret(case, found["option"]))
        for name, option in CONSTANT.items():
            regrets[name].append(regret(case, option))
        promised = found["expected_gain"]["tune-all"]
        true = case["top1"]["all"] - case["top1"]["probe"]
        covered.append(promised["low"] - 1e-9 <= true <= promised["high"] + 1e-9)
        figures = [f"{100 * case['top1'][name]:.1f}" if name in case["top1"] else "–" for name in NAMES.values()]
        between = f"{100 * promised['mean']:+.1f} ({100 * promised['low']:+.1f} to {100 * promised['high']:+.1f})"
        name = f"{case['data']}, {case.get('backbone', '')}".rstrip(", ")
        rows.append([name, str(case["advice"]["evidence"]["images"]), *figures, between, f"{100 * true:+.1f}",
                     found["option"], f"{100 * regrets['advice'][-1]:.1f}"])  # fmt: skip
    head = ["data, backbone", "images", *NAMES.values(), "promised of all", "came", "advice", "regret"]
    print(table([head, *rows]))
    print(table([["rule", "mean regret", "worst"], *(
        [name, f"{100 * np.mean(some):.2f}", f"{100 * max(some):.1f}"] for name, some in regrets.items()
    )]))  # fmt: skip
    print(f"{sum(covered)} of {len(covered)} gains lie within the promised interval of eight in ten")
    print(f"all cases together: {fit(cases)}")


def gate(cases: Sequence[Case]) -> None:
    """Print how often the gate erred."""
    runs = [(case, name, case[name]) for case in cases for name in ("last", "all") if case.get(name, {}).get("network")]
    kept = [(told["network"]["top1"] - told["probe"]["top1"], told["promoted"]) for _, _, told in runs]
    worse = sum(gain < -0.01 and promoted for gain, promoted in kept)
    refused = sum(gain > 0.01 and not promoted for gain, promoted in kept)
    print(f"gate: {len(kept)} runs, {sum(p for _, p in kept)} kept, of which {worse} were worse by more than a point;")
    print(f"{refused} refused that were better by more than a point (mean {_mean(kept):.1f} points lost)")


def _mean(kept: Sequence[tuple[float, bool]]) -> float:
    lost = [100 * gain for gain, promoted in kept if gain > 0.01 and not promoted]
    return float(np.mean(lost)) if lost else 0.0


def simulate() -> None:
    """Print how often networks of a known gain are kept, by the number of held-back images."""
    rng = np.random.default_rng(0)
    rows = []
    for gain in (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05, 0.1, 0.15):
        row = [f"{100 * gain:+.0f}"]
        for images in (20, 50, 100, 400, 2000):
            kept = 0
            for _ in range(4000):
                differ = max(abs(gain), 0.1)  # share of the images on which just one of the two is right
                alone = [(differ + gain) / 2, (differ - gain) / 2]  # the network, the probe
                both = PROBE - alone[1]
                fate = rng.choice(4, images, p=[*alone, both, 1 - differ - both])
                kept += finetuning.pays((fate == 1) | (fate == 2), (fate == 0) | (fate == 2))
            row.append(f"{kept / 40:.0f} %")
        rows.append(row)
    print(table([["true gain, points", *(f"{n} images" for n in (20, 50, 100, 400, 2000))], *rows]))


def main() -> None:
    """Judge, simulate."""
    options = parse()
    if options.simulate:
        simulate()
    cases = read(options.cases)
    if cases:
        judge(cases)
        gate(cases)


if __name__ == "__main__":
    main()
