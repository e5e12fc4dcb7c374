"""``python -m tests.campaigns NAME --count N --seed S``: run campaigns from a terminal."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from . import NAMES, results


def main() -> int:
    """Run what is asked for; exit code 1 if anything escaped."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description="Attack featurepipe, and count.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="Campaigns to run; all runs every one.")
    parser.add_argument("--count", type=int, help="Trials of each.  [default: of a long run; see --list]")
    parser.add_argument("--seed", type=int, default=0, help="Seed for every random draw.  [default: 0]")
    parser.add_argument("--only", type=int, metavar="N", help="Only trial N, as an escape names it.")
    parser.add_argument("--folder", type=Path, help="Where to work; nothing else may be in it.  [default: a temporary]")
    parser.add_argument("--list", action="store_true", help="Name the campaigns and end.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object: campaign → result.")
    given = parser.parse_args()
    if given.list or not given.names:
        for name in NAMES:
            campaign = results.module(name)
            print(f"{name:<11} {campaign.ABOUT} ({campaign.CI} trials in CI, {campaign.COUNT} in a long run)")
        return 0
    names = NAMES if given.names == ["all"] else given.names
    if unknown := set(names) - set(NAMES):
        parser.error(f"no campaign is called {', '.join(sorted(unknown))}; see --list")
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"campaign-{name}-", dir=given.folder) as folder:
            count = given.count or results.module(name).COUNT
            found[name] = results.run(name, count, given.seed, Path(folder), given.only)
        if not given.json:
            print("\n".join(found[name].lines()), flush=True)
    if given.json:
        print(json.dumps({name: result.to_json() for name, result in found.items()}))
    return int(any(result.escaped for result in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
