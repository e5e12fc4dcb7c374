"""The command line `featurepipe extract`, as a user runs it."""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from common import arguments, report

COMMAND = (sys.executable, "-P", "-c", "from featurepipe.cli import main; main()", "extract")


def package() -> dict[str, str | None]:
    """Where the package lies that was measured, and its commit, if that is a clone."""
    folder = Path(find_spec("featurepipe").origin).parent  # COMMAND's too: it looks where this script does
    said = subprocess.run(
        ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
    )
    return {"folder": str(folder), "commit": said.stdout.strip() or None}


def main() -> None:
    """Extract into a temporary store and hand on what `--json` says."""
    options = arguments().parse_args()
    weights = ["--weights", options.weights] if options.weights else ["--random-weights"]
    choices = ["-b", options.backbone, *weights, "--device", options.device, "--precision", options.precision]
    with tempfile.TemporaryDirectory() as store:
        done = subprocess.run([*COMMAND, options.folder, "-s", store, *choices, "--json"], capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace"))
    said = json.loads(done.stdout)
    report(
        "featurepipe",
        said["computed"],
        said["computed"] / said["images_per_second"],  # from hashing files to the last shard; without model creation
        images_per_second=said["images_per_second"],
        own_seconds=said["seconds"],  # all of `extract`: torch's import, model creation, hashing, warm-up
        package=package(),
        **{key: said.get(key) for key in ("stages", "precision", "decoder", "efficiency", "limited_by")},
    )


if __name__ == "__main__":
    main()
