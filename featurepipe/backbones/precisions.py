"""Which precision is fast here, and whether this network bears it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones.capabilities import Adaptable

if TYPE_CHECKING:
    import torch

AGREEMENT = 0.999  # least median cosine between vectors that are taken for the same
# Least median, and least of all, between a network's vectors and those of its compiled self, by precision.
COMPILED = {"fp32": (1 - 1e-5, 1 - 1e-5), "bf16": (AGREEMENT, 0.99), "fp16": (AGREEMENT, 0.99)}
SAMPLES = 4


def choose_precision(backbone: Adaptable) -> str:
    """bf16 where the device has it natively and the vectors, of every layer, stay those of fp32; else fp32.

    It depends on nothing but machine and network, never on the size of a data set: precision is part of the
    fingerprint, and a store that grows must not change it.
    """
    import torch

    if not has_bf16(torch.device(backbone.device)):
        return "fp32"
    return "fp32" if drifting(backbone.adapted(precision="bf16")) else "bf16"


def drifting(backbone: Adaptable) -> list[str]:
    """The layers whose vectors are not those of fp32, tried on a few inputs."""
    inputs = backbone.transform.trial(SAMPLES)
    found, wanted = backbone.embed(inputs), backbone.adapted(precision="fp32").embed(inputs)
    pairs = zip(backbone.layers, backbone.split(found), backbone.split(wanted), strict=True)
    return [layer for layer, one, other in pairs if agreement(one, other) < AGREEMENT]


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively, rather than by emulation that is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    features: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # which older torch lacks
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16"))


def agreement(found: np.ndarray, wanted: np.ndarray) -> float:
    """Median cosine between the rows of two matrices (n, D); 0 where either holds values that are not finite."""
    return float(np.median(cosines(found, wanted)))


def bears_compiling(found: np.ndarray, wanted: np.ndarray, precision: str) -> bool:
    """Whether compiling changes a network's vectors only by rounding: not just in the median, but each of them.

    Compiled on a CPU, vectors of 64 photos (hymenoptera) differed from the network's own, as 1 − cosine, by at most
    3·10⁻¹² in fp32, and in bf16 by 2.7·10⁻⁴ in the median and 6.1·10⁻⁴ at most (MobileNetV2; ViT-tiny 5·10⁻⁵ and
    1.1·10⁻⁴).
    """
    found_cosines, (median, least) = cosines(found, wanted), COMPILED[precision]
    return bool(np.median(found_cosines) >= median and found_cosines.min() >= least)


def cosines(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows; equal rows have 1 even if they are zero, and what is not finite has 0."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(all="ignore"):
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    cosine[(found == wanted).all(axis=1)] = 1
    return np.where(np.isfinite(cosine), cosine, 0)
