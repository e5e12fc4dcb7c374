"""A toy family of backbones with a text tower, for tests that need one without any extra."""

import numpy as np

from featurepipe import backbones
from featurepipe.backbones import Maker, TextTower


class Wordy(Maker):
    """``wordy:NAME`` is timm's NAME with random weights, and a prompt's vector is drawn from its letters."""

    family = "wordy"

    def knows(self, name):
        return False

    def create(self, name, request):
        return backbones.create(name, random_weights=True, seed=request.seed, precision="fp32", device="cpu")

    def recall(self, spec, origin):
        raise NotImplementedError

    def names(self, pattern, *, pretrained):
        return []

    def pair(self, name, request):
        images = self.create(name, request)

        def encode(prompts):
            return np.stack([np.random.default_rng(list(one.encode())).normal(size=images.width) for one in prompts])

        return images, TextTower(encode, 10.0)


def install():
    """Let featurepipe know the family."""
    backbones.MAKERS.setdefault("wordy", Wordy())
