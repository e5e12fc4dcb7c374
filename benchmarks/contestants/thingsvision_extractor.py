"""thingsvision's extractor with source "timm", batches of 32; the module hooked is the pooled embedding.

It reads flat folders only, and weights as a torch file of the whole state dict, which is made here beforehand.
No output folder is given: with one, and no step size, it would decode the first batch twice.
"""

import contextlib
import os
import sys
import tempfile
import time

from common import arguments, jpegs, report  # first, for it starts the clock

# isort: split

import numpy as np
import torch
from safetensors.torch import load_file
from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset


def main() -> None:
    """Embed the folder."""
    options = arguments().parse_args()
    files = jpegs(options.folder)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        weights = None
        if options.weights:
            weights = os.path.join(scratch, "weights.pth")
            torch.save(load_file(options.weights), weights)
        extractor = get_extractor(
            model_name=options.backbone, source="timm", device=options.device, pretrained=False, model_path=weights
        )
        module = "fc_norm" if hasattr(extractor.model, "fc_norm") else "global_pool"

        torch.backends.cudnn.allow_tf32 = options.precision != "fp32"

        def embed(some):
            dataset = ImageDataset(
                root=str(options.folder),
                out_path=scratch,
                backend=extractor.get_backend(),
                file_names=[file.name for file in some],
                transforms=extractor.get_transformations(),
            )
            batches = DataLoader(dataset=dataset, batch_size=32, backend=extractor.get_backend())
            return extractor.extract_features(
                batches=batches, module_name=module, flatten_acts=False, output_type="ndarray"
            )

        if options.warm_up:
            embed(files[: options.warm_up])
        started = time.perf_counter()
        embeddings = embed(files)
        seconds = time.perf_counter() - started

    assert np.isfinite(embeddings).all()
    report("thingsvision", len(embeddings), seconds, shape=embeddings.shape, module=module)


if __name__ == "__main__":
    main()
