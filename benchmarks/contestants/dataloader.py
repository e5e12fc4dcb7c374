"""The plain loop that people write: timm model, timm transform, torch DataLoader, batches of 32, fp32.

On CUDA torch's own choice for convolutions is TF32; it is off where ``--precision fp32`` is asked of all.
"""

import time

from common import arguments, cores, jpegs, report  # first, for it starts the clock

# isort: split

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

BATCH = 32


class Images(Dataset):
    """Files, decoded and transformed one by one."""

    def __init__(self, files, transform):
        self.files, self.transform = files, transform

    def __len__(self):
        """How many files."""
        return len(self.files)

    def __getitem__(self, index):
        """One tensor (C, H, W)."""
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def main() -> None:
    """Embed the folder."""
    parser = arguments()
    parser.add_argument("--workers", type=int, default=cores())
    options = parser.parse_args()
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": options.weights}} if options.weights else {}
    model = timm.create_model(options.backbone, num_classes=0, **overlay).eval().to(options.device)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    files = jpegs(options.folder)
    cuda = options.device.startswith("cuda")
    torch.backends.cudnn.allow_tf32 = options.precision != "fp32"

    def embed(some, workers):
        batches = DataLoader(Images(some, transform), batch_size=BATCH, num_workers=workers, pin_memory=cuda)
        with torch.inference_mode():
            outputs = [model(batch.to(options.device, non_blocking=True)) for batch in batches]
            return torch.cat(outputs).cpu().numpy()  # (N, D); .cpu() waits for the device

    if options.warm_up:
        embed(files[: options.warm_up], 0)
    started = time.perf_counter()
    embeddings = embed(files, options.workers)
    seconds = time.perf_counter() - started

    assert np.isfinite(embeddings).all()
    report("dataloader", len(embeddings), seconds, workers=options.workers, shape=embeddings.shape)


if __name__ == "__main__":
    main()
