"""What this machine could do at best: decoding and resizing alone, and the forward pass alone.

No program that runs the same network can be faster than these, unless it decodes or computes in another way.
"""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from common import arguments, cores, jpegs, report  # first, for it starts the clock

# isort: split

import timm
import torch
from torchvision.io import ImageReadMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featurepipe.backbones.networks import frozen_compiler
from featurepipe.extraction.allocation import reuse_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FILES = 200


def rate(step: Callable[[int], int], threads: int, budget: float) -> float:
    """Images per second of `threads` threads that call `step` for `budget` seconds.

    Parameters
    ----------
    step : callable
        Given a counter, handles some images and returns how many.
    threads : int
        1 is the caller's own thread.
    budget : float
        Seconds; what has begun by then is finished and counted.
    """
    step(0)  # warm-up, and compilation where there is any
    counter = itertools.count()

    def work() -> float:
        done = 0
        while (now := time.perf_counter()) < end:
            done += step(next(counter))
        return done / (now - started)

    started = time.perf_counter()
    end = started + budget
    if threads == 1:
        return work()
    with ThreadPoolExecutor(threads) as pool:
        return sum(future.result() for future in [pool.submit(work) for _ in range(threads)])


def decode_ceiling(files: list[bytes], config: dict, threads: int, budget: float) -> float:
    """Images per second: JPEG bytes in memory to resized and cropped uint8 tensors, one thread per core."""
    _, height, width = config["input_size"]
    short = int(max(height, width) / config["crop_pct"])
    interpolation = InterpolationMode(config["interpolation"])
    buffers = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    torch.set_num_threads(1)

    def step(index: int) -> int:
        image = torch.ops.image.decode_jpeg(buffers[index % len(buffers)], ImageReadMode.RGB.value, False)  # (3, h, w)
        image = functional.resize(image, [short], interpolation, antialias=True)
        functional.center_crop(image, [height, width]).clone()
        return 1

    return rate(step, threads, budget)


def forward_ceilings(options: object, config: dict, threads: int, *, from_c: bool) -> dict[str, float]:
    """Images per second of each way to run the network on tensors that lie ready.

    On a CPU: a batch of 8 on each of `threads` threads, or a batch of 32 on all cores at once; on CUDA one stream,
    a batch of 256. Each as it is, and compiled, with weights as constants; with `from_c` also called from C++.
    As in featurepipe, convolutions on CUDA use TF32 unless the precision is fp32, and attention in bf16 on a CPU is
    made of plain products.
    """
    torch.backends.cudnn.allow_tf32 = options.precision != "fp32"
    cuda = options.device.startswith("cuda")
    dtype = DTYPES[options.precision]
    kind = options.device.split(":")[0]
    found = {}
    for streams, batch in [(1, 256)] if cuda else [(threads, 8), (1, 32)]:
        torch.set_num_threads(1 if streams > 1 else threads)  # before compiling, which writes it into the code
        pixels = torch.randn(batch, *config["input_size"], device=options.device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        for way in ("", " compiled", " compiled C++") if from_c else ("", " compiled"):
            model = timm.create_model(options.backbone, num_classes=0).eval().to(options.device)
            model = model.to(memory_format=torch.channels_last)
            for part in model.modules():
                if hasattr(part, "fused_attn"):
                    part.fused_attn = cuda or dtype == torch.float32
            if way:
                torch.compiler.reset()
                model = torch.compile(model)

            def step(_: int, model=model, pixels=pixels) -> int:
                with torch.inference_mode(), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
                    model(pixels)
                if cuda:
                    torch.cuda.synchronize()
                return len(pixels)

            # read when the network is traced, which its first call does
            with frozen_compiler(from_c=way.endswith("C++")):
                found[f"{streams}x{batch}{way}"] = rate(step, streams, options.budget)
    return found


def main() -> None:
    """Measure and print one JSON line."""
    parser = arguments()
    parser.add_argument("--budget", type=float, default=5.0, help="seconds per measurement")
    options = parser.parse_args()
    config = timm.data.resolve_model_data_config(timm.create_model(options.backbone, num_classes=0))
    files = [file.read_bytes() for file in jpegs(options.folder)[:FILES]]
    threads = cores()

    def serial(decode: float, forwards: dict[str, float]) -> float:  # on a CPU the same cores do both
        forward = max(forwards.values())
        return 1 / (1 / decode + 1 / forward) if on_cpu else min(decode, forward)

    def measure(*, from_c: bool) -> tuple[float, dict[str, float]]:
        decode = decode_ceiling(files, config, threads, options.budget)
        return decode, forward_ceilings(options, config, threads, from_c=from_c)

    on_cpu = options.device == "cpu"
    plain = measure(from_c=False) if on_cpu else None
    with reuse_memory() if on_cpu else nullcontext():  # as in featurepipe
        decode, forwards = measure(from_c=on_cpu)
    best = max(forwards, key=forwards.get)
    more = {"decode": decode, "forward": forwards[best], "best_forward": best, "forwards": forwards}
    more["serial"] = serial(decode, forwards)
    if plain:
        more.update(plain_decode=plain[0], plain_forwards=plain[1], plain_serial=serial(*plain))
    report("ceilings", len(files), len(files) / more["serial"], precision=options.precision, **more)


if __name__ == "__main__":
    main()
