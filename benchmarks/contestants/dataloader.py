"""The plain loop that people write: timm model, timm transform, torch DataLoader, batches of 32, fp32."""

import time

from common import arguments, cores, jpegs, report  # first, for it starts the clock

# isort: split

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


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

    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    batches = DataLoader(Images(files, transform), batch_size=32, num_workers=options.workers, pin_memory=cuda)
    with torch.inference_mode():
        outputs = [model(batch.to(options.device, non_blocking=True)) for batch in batches]
        embeddings = torch.cat(outputs).cpu().numpy()  # (N, D); .cpu() waits for the device
    seconds = time.perf_counter() - started

    assert np.isfinite(embeddings).all()
    report("dataloader", len(embeddings), seconds, workers=options.workers, shape=embeddings.shape)


if __name__ == "__main__":
    main()
