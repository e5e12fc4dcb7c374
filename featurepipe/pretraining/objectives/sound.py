"""Sound: which kind of sound is heard where a picture was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurepipe.digests import sha256_json
from featurepipe.errors import PretrainingError
from featurepipe.images import ImageTransform
from featurepipe.media import IMAGE, Transform
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.objectives.pretext import Inputs, Need, Pretext
from featurepipe.pretraining.pairs import COLUMN, Sounds, heard, of_table, paired
from featurepipe.pretraining.pictures import Pictures
from featurepipe.stores import Pending
from featurepipe.videos import VideoTransform
from featurepipe.vocabulary import PretrainOptions

VIDEO = "video"
SMALLEST = 1e-6  # deviation of a statistic that is the same for all sounds
DRAWS = 4  # starts of k-means


class Sound(Pretext):
    """Predicts the sound texture of a clip from one of its frames: its cluster, or its code in bits.

    Textures (`featurepipe.sounds.textures`) are standardised. ``clusters``: k-means, and cross-entropy. ``bits``: the
    signs of the first principal components, each predicted by itself.

    References
    ----------
    Owens et al. 2016, "Ambient Sound Provides Supervision for Visual Learning".
    """

    media: ClassVar[tuple[str, ...]] = (IMAGE, VIDEO)
    columns: ClassVar[tuple[str, ...]] = (COLUMN,)
    reads: ClassVar[tuple[str, ...]] = ("crop", "sound_target", "codes")

    def __init__(self, how: PretrainOptions, size: tuple[int, int], pictures: Pictures, extra: Any = None) -> None:
        super().__init__(how, size, pictures)
        assert isinstance(extra, Sounds)
        self._sounds = extra
        standard = standardised(extra.textures)
        most = len(np.unique(standard, axis=0))
        if most < 2:
            raise PretrainingError("all sounds have the same texture, so there is nothing to tell apart; give others")
        make = clustered if how.sound_target == "clusters" else in_bits
        codes = make(standard, min(how.codes, most), how.seed)
        self.width = int(codes.max()) + 1 if codes.ndim == 1 else codes.shape[1]
        self.codes = torch.from_numpy(codes)  # (m,) or (m, bits), one for each sound

    @classmethod
    def transform(cls, need: Need, held: ImageTransform) -> tuple[Transform, int]:
        """Images as they are held; of a video, or of a clip of one, the frame in the middle."""
        return (VideoTransform.of(held, clips=1) if need.manifest.medium == VIDEO else held), 1

    @classmethod
    def extras(cls, need: Need, pending: Sequence[Pending], learned: np.ndarray) -> tuple[Any, np.ndarray]:
        """The sounds of videos, or those that the table names; nothing is made of those of pictures held back."""
        some = [pending[row] for row in learned]
        if need.manifest.medium == VIDEO:
            sounds, has = heard(some, need.workers, need.listener)
        else:
            places = [one.place for one in some]
            table = of_table(need.table, need.path_column)
            sounds, has = paired(places, table, need.manifest.root, need.workers, need.listener)
        return sounds.among(learned, len(pending)), learned[has]

    def sources(self) -> dict[str, str]:
        """The sounds, and which pictures they belong to."""
        sounds = self._sounds
        return {"sounds": sha256_json([sounds.digests, sounds.starts.tolist(), sounds.numbers.tolist()])}

    def make_head(self, body: Body) -> nn.Module:
        """A linear layer."""
        return nn.Linear(body.width, self.width)

    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """A view of each, and the code of one of its sounds, drawn anew in every epoch."""
        pixels = pictures.take(rows, str(generator.device))
        sounds = self._sounds.drawn(rows, [self.how.seed, epoch])
        return (self.views(pixels, generator),), self.codes[torch.from_numpy(sounds)].to(pixels.device)

    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """Logits (B, K), of clusters or of bits."""
        return head(body.embed(*inputs))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """Cross-entropy: of one of K clusters, or the mean over bits."""
        if targets.ndim == 1:
            return F.cross_entropy(outputs, targets, reduction="sum"), float(len(targets))
        each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return each.mean(1).sum(), float(len(targets))


def standardised(textures: np.ndarray) -> np.ndarray:
    """Textures (m, 502) with mean 0 and deviation 1 of each number, float64."""
    wide = textures.astype(np.float64)
    return (wide - wide.mean(0)) / np.maximum(wide.std(0), SMALLEST)


def clustered(standard: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The cluster of each texture, int64 (m,)."""
    from sklearn.cluster import KMeans

    return KMeans(count, n_init=DRAWS, random_state=seed).fit_predict(standard).astype(np.int64)


def in_bits(standard: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The signs of each texture's first principal components, float32 (m, count) of 0 and 1."""
    from sklearn.decomposition import PCA

    most = min(count, *standard.shape)
    return (PCA(most, random_state=seed).fit_transform(standard) > 0).astype(np.float32)
