"""Google's speech embedding as a family, ``speech-embedding:FOLDER``: two ONNX files that openwakeword brings.

The folder holds ``melspectrogram.onnx`` and ``embedding_model.onnx`` (Apache-2.0). The first turns 16-bit samples at
16 kHz into log-mel frames of 10 ms; the second turns windows of 76 frames, 8 frames apart, into 96 numbers each.

References
----------
Lin, Kilgour, Roblek and Sharifi 2020, "Training keyword spotters with limited and synthesized speech data"; the way
from samples to the second file is that of David Scripka's openwakeword.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.backbones.encoders import Encoder
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.makers.onnx_files import require_onnx
from featurepipe.backbones.specs import PENULTIMATE, make_spec
from featurepipe.backbones.trust import check_place
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_file, sha256_json
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.sounds import WaveTransform

FAMILY = "speech-embedding"
FILES = {"mel": "melspectrogram.onnx", "embedding": "embedding_model.onnx"}
LOUDEST = 32767  # what the first file expects of a sample that is 1
FRAMES, STEP, MELS = 76, 8, 32  # of the second file's windows
LEAST = 512 + (FRAMES - 1) * 160  # samples that give one window: frames of 512, 160 apart
Run = Callable[[np.ndarray], np.ndarray]


class SpeechEmbeddings(Maker):
    """The mean of a sound's windows, by the folder of the two files."""

    family = FAMILY

    def knows(self, name: Any) -> bool:
        """None without the family in front."""
        return False

    def create(self, name: Any, request: Request) -> Encoder:
        """See `Maker.create`."""
        folder = Path(request.weights or name)
        called = f"{FAMILY}:{folder.name}"
        request.allow(called, "weights", "precision")
        if request.device not in ("auto", "cpu"):
            raise BackboneError(f"{called} runs on the CPU alone; leave out --device, or give cpu")
        files = {key: folder / file for key, file in FILES.items()}
        if missing := [file for file in files.values() if not file.is_file()]:
            raise WeightsUnavailable(
                f"{missing[0]} does not exist; {FAMILY}:FOLDER holds {' and '.join(FILES.values())}"
            )
        digests = {key: sha256_file(file) for key, file in files.items()}
        hear = Hearing(*(_session(file) for file in files.values()))
        return Encoder(
            name=called,
            spec=make_spec(
                f"{FAMILY}:google",
                {**digests, "frames": FRAMES, "step": STEP},
                sha256_json(digests),
                WaveTransform(least=LEAST),
                PENULTIMATE,
                "mean",
                "fp32",
            ),
            source={"name": f"{FAMILY}:{folder.resolve()}", "weights": None, "random_seed": None},
            width=_tried(hear, called),
            encode=hear,
            transform=WaveTransform(least=LEAST),
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; a graph can do no more than compute, and is known by its digest."""
        folder = str(origin.weights or origin.source["name"].removeprefix(f"{FAMILY}:"))
        if not origin.trust:
            for key, file in FILES.items():
                check_place(str(Path(folder, file)), spec["arguments"][key], origin.who, (".onnx",))
        return {"name": f"{FAMILY}:{folder}"}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: the files are in their users' hands."""
        return []

    def files(self, name: Any, weights: Path | None) -> list[Path]:
        """The two files."""
        return [Path(weights or name, file) for file in FILES.values()]


@dataclass(frozen=True)
class Hearing:
    """From waves to vectors, through both files.

    Attributes
    ----------
    mel : callable
        Samples (1, n) → (1, 1, T, 32).
    embed : callable
        Frames (n, 76, 32, 1) → (n, 1, 1, 96).
    """

    mel: Run
    embed: Run

    def __call__(self, sounds: Sequence[Any]) -> np.ndarray:
        """Windows of waves (windows, samples) of each sound, NaN where there is none → (B, 96)."""
        return np.stack([self._of_sound(np.asarray(waves, np.float32)) for waves in sounds])

    def _of_sound(self, waves: np.ndarray) -> np.ndarray:
        """(windows, samples) → (96,)."""
        signals = [wave[~np.isnan(wave)] for wave in waves]
        windows = np.concatenate([self._windows(signal) for signal in signals if len(signal)])  # (n, 76, 32)
        return self.embed(windows[..., None]).reshape(len(windows), -1).mean(axis=0)

    def _windows(self, signal: np.ndarray) -> np.ndarray:
        """(samples,) → (n, 76, 32); one sound at a time, since the first file compares with the loudest it is given."""
        frames = self.mel(LOUDEST * signal[None]).reshape(-1, MELS) / 10 + 2  # (T, 32)
        seen = np.lib.stride_tricks.sliding_window_view(frames, FRAMES, axis=0)[::STEP]  # (n, 32, 76)
        return np.ascontiguousarray(seen.transpose(0, 2, 1))


def _session(path: Path) -> Run:
    """What runs a file of one input and one output."""
    _, runtime = require_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # as each thread of an extraction runs a batch of its own
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common parent
        raise BackboneError(f"{path} cannot be run by onnxruntime: {first_line(error)}") from error
    if (len(session.get_inputs()), len(session.get_outputs())) != (1, 1):
        raise BackboneError(f"{path} does not have one input and one output; give the files of openwakeword")
    return partial(_run, session, session.get_inputs()[0].name)


def _run(session: Any, name: str, given: np.ndarray) -> np.ndarray:
    return session.run(None, {name: given})[0]


def _tried(hear: Hearing, name: str) -> int:
    """The length of one vector."""
    try:
        found = hear(list(WaveTransform(least=LEAST).trial(2)))
    except Exception as error:  # whatever onnxruntime and NumPy say to shapes that do not fit
        raise BackboneError(
            f"{name} fails on a sound of a second: {first_line(error)}; give openwakeword's files"
        ) from error
    if not np.isfinite(found).all():
        raise BackboneError(f"{name} gives NaN or infinite values for trial sounds; download its files again")
    return found.shape[1]
