"""Engines: how a backbone is run, how many images at once, and whether compiling it pays."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from statistics import median, quantiles

import numpy as np

from featurepipe.backbones import Backbone, Extractor
from featurepipe.errors import BackboneError, OutOfMemory

COMPILE = ("auto", "on", "off")
COMPILE_SECONDS = 20.0  # of one thread; measured: 8 to 30, the first time in a machine's life the longest
# Nobody knows beforehand what compiling gains: nothing to a tenth on one processor, 1.2 to 1.8 times on another, both
# measured (benchmarks/README.md). So it may cost a tenth of what is left, and must be over before half of that is.
COMPILE_SHARE, COMPILE_OVER = 0.1, 0.5
LANE_PIXELS = 8 * 224 * 224  # of a lane's batch: what still fits a core's cache was measured fastest
MAX_LANES = 16  # more threads than that wait for the interpreter's lock rather than compute
RAMP_FROM, RAMP_TO, RAMP_GAIN = 32, 1024, 1.05
TRIALS = 8  # batches per lane before their times are trusted


def default_workers() -> int:
    """One per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BatchSize:
    """How many images go through the network at once.

    On an accelerator it doubles from batch to batch for as long as that makes the run faster; whatever runs out of
    memory halves it, for good.

    Parameters
    ----------
    start : int
    ramp : bool
        Whether to try larger ones.
    """

    def __init__(self, start: int, *, ramp: bool) -> None:
        self.current, self._ramp = start, ramp
        self._speeds: dict[int, list[float]] = {}

    def record(self, size: int, seconds: float) -> None:
        """Take note of a batch; the third of a size decides whether the next is twice as large."""
        if not self._ramp or size != self.current:
            return
        speeds = self._speeds.setdefault(size, [])
        speeds.append(size / seconds)
        if len(speeds) < 3:  # the first of a size also pays for its memory and its kernels
            return
        before = self._speeds.get(size // 2)
        if before is not None and max(speeds) < RAMP_GAIN * max(before):
            self.current, self._ramp = size // 2, False
        elif 2 * size <= RAMP_TO:
            self.current = 2 * size
        else:
            self._ramp = False

    def halve(self, failed: int) -> bool:
        """Go below a size that memory did not suffice for; False if it is smaller already, or cannot be."""
        if self.current < failed or failed == 1:
            return False
        self.current, self._ramp = failed // 2, False
        return True


class Engine:
    """Runs one backbone for the threads of an extraction.

    Parameters
    ----------
    extractor : Backbone or Descriptor
    batch_size : int, optional
        Images per forward pass; None chooses it.
    workers : int, optional
        Lanes; None is one per core.
    compile : {'auto', 'on', 'off'}
        ``auto`` compiles the network during the run where what is left takes ten times as long as compiling.

    Attributes
    ----------
    lanes : int
        Threads that read, and on a CPU infer too.
    notes : deque of str
        What the user should hear; the calling thread takes them out.
    """

    def __init__(
        self, extractor: Extractor, *, batch_size: int | None = None, workers: int | None = None, compile: str = "auto"
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        if compile not in COMPILE:
            raise ValueError(f"compile is one of {', '.join(COMPILE)}, not {compile!r}")
        self.extractor = self._eager = extractor
        self.own_device = not extractor.device.startswith("cpu")
        self.lanes = workers or min(default_workers(), MAX_LANES)
        self.infer_threads = 2 if self.own_device else self.lanes  # two: one's copies run beside the other's kernels
        start = batch_size or (RAMP_FROM if self.own_device else lane_batch(extractor))
        self.size = BatchSize(start, ramp=self.own_device and batch_size is None)
        self.notes: deque[str] = deque()
        self.compile_seconds = 0.0
        self._compile = compile if isinstance(extractor, Backbone) else "off"
        self._times: deque[float] = deque(maxlen=1000)  # seconds per image, of whole batches
        self._eager_time: float | None = None
        self._lock = threading.Lock()

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32, in as many pieces as memory asks for; threads may share it."""
        vectors, done = np.empty((len(pixels), self.extractor.width), np.float32), 0
        while done < len(pixels):
            extractor, size = self.extractor, min(self.size.current, len(pixels) - done)
            started = time.perf_counter()
            try:
                found = extractor.embed(pixels[done : done + size])
            except OutOfMemory as error:
                self._back_off(extractor, size, error)
                continue
            if len(found) != size:  # NumPy would spread a single row over all
                raise BackboneError(f"{extractor.name} gave {len(found)} vectors for {size} images")
            self._record(extractor, size, time.perf_counter() - started)
            vectors[done : done + size] = found
            done += size
        return vectors

    @property
    def infer_floor(self) -> float | None:
        """Seconds per image of the fastest tenth of batches; None before enough have run."""
        with self._lock:
            times = list(self._times)
        return quantiles(times, n=10)[0] if len(times) >= TRIALS else None

    def wants_compiling(self, left: int) -> bool:
        """Whether so many images are left that compiling now may pay and cannot cost much; True at most once."""
        if self._compile == "auto":
            with self._lock:
                times = list(self._times)
            if len(times) < TRIALS * self.infer_threads:
                return False
            seconds = left * median(times)  # of all threads; compiling takes one
            if min(COMPILE_SHARE, COMPILE_OVER / self.infer_threads) * seconds < COMPILE_SECONDS:
                return False
        elif self._compile == "off":
            return False
        self._compile = "off"
        return True

    def compile(self) -> None:
        """Compile the network, in this thread while others go on; a failure leaves it as it was, and a note."""
        if not self.own_device and not _has_compiler():
            self.notes.append("note: no C++ compiler found (g++, or the environment's CXX); not compiled")
            return
        started = time.perf_counter()
        try:
            made = self._eager.compile(self.size.current)
        except BackboneError as error:
            self.notes.append(f"note: {error}; going on without")
            return
        finally:
            self.compile_seconds = time.perf_counter() - started
        with self._lock:
            self._eager_time = median(self._times) if self._times else None
            self._times.clear()
            self.extractor = made
        self.notes.append(f"compiled in {self.compile_seconds:.0f} s")

    def _record(self, extractor: Extractor, size: int, seconds: float) -> None:
        with self._lock:
            if extractor is not self.extractor or size != self.size.current:  # a rest says little
                return
            self._times.append(seconds / size)
            self.size.record(size, seconds)
            compiled = extractor is not self._eager
            if compiled and self._eager_time is not None and len(self._times) >= TRIALS * self.infer_threads:
                if median(self._times) > self._eager_time:
                    self.notes.append("note: compiled, the network is slower here; going on without")
                    self.extractor = self._eager
                    self._times.clear()
                self._eager_time = None

    def _back_off(self, extractor: Extractor, size: int, error: OutOfMemory) -> None:
        with self._lock:
            if extractor is not self._eager:  # it is made for one size
                self.extractor, self._compile = self._eager, "off"
                self._times.clear()
            if self.size.halve(size):
                self._times.clear()
                self.notes.append(
                    f"note: no memory for {size} images at once on {extractor.device}; going on with {size // 2}"
                )
            elif size == 1 and extractor is self._eager:
                raise error


def lane_batch(extractor: Extractor) -> int:
    """Images per batch of one core: few large ones, more small ones."""
    _, height, width = extractor.transform.input_size
    return min(64, max(4, LANE_PIXELS // (height * width)))


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name)
