"""embetter's own pipeline, ImageLoader and TimmEncoder, as its documentation writes it. It runs on the CPU only.

embetter asks timm for pretrained weights from the hub; here they come from a file, or are random. It never calls
``eval()``, and nothing here does so for it.
"""

import sys
import time
from unittest.mock import patch

from common import arguments, jpegs, report  # first, for it starts the clock

# isort: split

import numpy as np
import timm
from embetter.vision import ImageLoader, TimmEncoder
from sklearn.pipeline import make_pipeline


def main() -> None:
    """Embed the folder."""
    options = arguments().parse_args()
    if options.device != "cpu":
        sys.exit("embetter runs on the CPU only")
    origin = {"pretrained_cfg_overlay": {"file": options.weights}} if options.weights else {"pretrained": False}
    create = timm.create_model

    def create_model(name, **keywords):
        return create(name, **{**keywords, **origin})

    with patch("timm.create_model", create_model):
        encoder = TimmEncoder(options.backbone)
    pipeline = make_pipeline(ImageLoader(), encoder)
    files = jpegs(options.folder)

    if options.warm_up:
        pipeline.fit_transform(files[: options.warm_up])
    started = time.perf_counter()
    embeddings = pipeline.fit_transform(files)  # (N, D); scikit-learn refuses a bare transform
    seconds = time.perf_counter() - started

    assert np.isfinite(embeddings).all()
    report("embetter", len(embeddings), seconds, shape=embeddings.shape, training=encoder.model.training)


if __name__ == "__main__":
    main()
