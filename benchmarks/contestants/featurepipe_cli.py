"""The command line `featurepipe extract`, as a user runs it."""

import json
import subprocess
import sys
import tempfile

from common import arguments, report

COMMAND = (sys.executable, "-P", "-c", "from featurepipe.cli import main; main()", "extract")


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
        said["computed"] / said["images_per_second"],  # first file to last shard; hashing and model creation excluded
        images_per_second=said["images_per_second"],
        own_seconds=said["seconds"],  # all of `extract`: torch's import, hashing, model creation, warm-up
        **{key: said.get(key) for key in ("stages", "precision", "decoder", "efficiency", "limited_by")},
    )


if __name__ == "__main__":
    main()
