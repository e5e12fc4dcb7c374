"""What each option costs, in minutes on the machine that filled the store."""

from __future__ import annotations

# Forward passes that a training step takes. Two make the backward pass: the gradients of activations and of weights
# have as many products each as the forward pass itself (Kaplan et al. 2020, "Scaling Laws for Neural Language Models",
# section 2.1). The optimizer, and activations that have to be kept, take about one more: on a CPU a step of vit_tiny,
# resnet18 and mobilenetv2_100 at 224 pixels took 3.6 to 3.8 passes of inference. That is the least. At 96 pixels
# resnet18 took 3.8 in fp32 and 3.5 in bf16, mobilenetv2_035 took 3.8 and 7.9: there inference alone is faster in bf16.
# Beside other work the latter took 9 and 32; and of images of 48 pixels, augmentation takes longer than extraction.
PASSES = 4
TRAININGS = 2  # one to be judged, one on the held-back images too
# Of the forward pass, what the last three blocks take: a quarter of a ViT's twelve, a fifth of a ResNet-50's sixteen.
LAST_COMPUTE = 0.25


def minutes(images: int, held_out: int, seconds: float, epochs: int, views: int) -> dict[str, float]:
    """Minutes that each option takes at least, if tuning goes through all epochs.

    A step costs `PASSES` forward passes through what is tuned, and a network that is kept is trained twice. Where only
    the last blocks are tuned, the frozen ones run once for each view of an image, and the tuned ones read their output
    from a cache. The probes read embeddings that are there already: their seconds count as none.

    Parameters
    ----------
    images, held_out : int
        To train on; to validate on after each epoch.
    seconds : float
        Seconds that extraction takes for one image, including reading and decoding, which training does too.
    epochs : int
    views : int
        Augmented views of each training image whose frozen part is cached.

    Returns
    -------
    dict
        Option → minutes.

    Examples
    --------
    >>> minutes(1000, 0, 0.01, epochs=20, views=4)
    {'linear': 0.0, 'stage': 0.0, 'tune-last': 7.2, 'tune-all': 26.7}
    """
    epoch = PASSES * images + held_out  # forward passes
    bottom = (1 - LAST_COMPUTE) * (views * images + held_out)
    whole = TRAININGS * epochs * epoch
    passes = {"tune-last": bottom + LAST_COMPUTE * whole, "tune-all": whole}
    return {"linear": 0.0, "stage": 0.0, **{option: round(n * seconds / 60, 1) for option, n in passes.items()}}
