"""Engines: how a backbone is run, how many inputs at once, and whether compiling it pays."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from statistics import median, quantiles
from typing import Any

import numpy as np

from featurepipe.backbones import Compilable, Embedder
from featurepipe.errors import BackboneError, OutOfMemory
from featurepipe.media import plural
from featurepipe.vocabulary.names import SWITCH

COMPILE_SECONDS = 17.0  # all others wait; measured: 11 (MobileNetV2) to 16 (ViT-tiny), 18 to 25 the first time
# Measured (benchmarks/README.md): 1.2 (ResNet-50) to 1.65 (MobileNetV2) times with batch norms, which are folded into
# convolutions, and 1.14 to 1.21 (ViT-tiny) without any. It must repay itself.
COMPILE_GAIN, COMPILE_GAIN_PLAIN = 1.2, 1.15
LANE_COST = 8 * 224 * 224  # of a lane's batch: what still fits a core's cache was measured fastest
MAX_LANES = 16  # more threads that infer, uncompiled, wait for the interpreter's lock rather than compute
THREADS_PER_DEVICE = 2  # of CUDA: one's copies run during the other's kernels; MPS aborts (pytorch/pytorch#197805)
RAMP_FROM, RAMP_TO, RAMP_GAIN = 32, 1024, 1.05
RAMP_BYTES = RAMP_TO * 3 * 224 * 224  # of a batch: larger inputs are no reason to hold more of them
TRIALS = 8  # batches per lane before their times are trusted


def default_workers() -> int:
    """One per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes_for(*, own_device: bool, cores: int) -> int:
    """Threads that read; on a CPU they infer too, and more than some of them hinder each other."""
    return cores if own_device else min(cores, MAX_LANES)


SHORTER = 16  # batches in a row that are shorter than the size to be tried, after which nothing larger is


class BatchSize:
    """How many inputs go through the network at once.

    On an accelerator it doubles from batch to batch for as long as that makes the run faster; whatever runs out of
    memory halves it, for good.

    Parameters
    ----------
    start : int
    ramp : bool
        Whether to try larger ones.
    most : int
        The largest to try.
    """

    def __init__(self, start: int, *, ramp: bool, most: int = RAMP_TO) -> None:
        self.current, self._ramp, self._most = start, ramp, most
        self._speeds: dict[int, list[float]] = {}
        self._shorter: list[int] = []  # one after another

    @property
    def settled(self) -> bool:
        """Whether nothing larger is going to be tried."""
        return not self._ramp

    def record(self, size: int, seconds: float) -> None:
        """Take note of a batch; the third of a size decides whether the next is twice as large."""
        if not self._ramp or size > self.current:
            return
        if size < self.current:
            self._shorter.append(size)
            if len(self._shorter) == SHORTER:  # no more inputs come together, as those of very large files
                self.current, self._ramp = max(self._shorter), False
            return
        self._shorter = []
        speeds = self._speeds.setdefault(size, [])
        speeds.append(size / seconds)
        if len(speeds) < 3:  # the first of a size also pays for its memory and its kernels
            return
        before = self._speeds.get(size // 2)
        if before is not None and max(speeds) < RAMP_GAIN * max(before):
            self.current, self._ramp = size // 2, False
        elif 2 * size <= self._most:
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
    extractor : Embedder
    batch_size : int, optional
        Inputs per forward pass; None chooses it.
    workers : int, optional
        Lanes; None is one per core.
    compile : {'auto', 'on', 'off'}
        ``auto`` compiles the network during the run where that repays itself, in runs of minutes. It is
        compiled for one batch size, thus not before that has been found; never on MPS.

    Attributes
    ----------
    lanes : int
        Threads that read, and on a CPU infer too.
    notes : deque of str
        What the user should hear; the calling thread takes them out.
    compiling : bool
        Whether a thread is at it, which nothing can stop.
    infer_seconds : float
        Seconds of the network, summed over threads, without waiting for each other or for the compiler.
    """

    def __init__(
        self, extractor: Embedder, *, batch_size: int | None = None, workers: int | None = None, compile: str = "auto"
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        if compile not in SWITCH:
            raise ValueError(f"compile is one of {', '.join(SWITCH)}, not {compile!r}")
        self.extractor: Embedder = extractor
        self._eager: Any = extractor  # a network where it can be compiled
        self.own_device = not extractor.device.startswith("cpu")
        self.lanes = workers or lanes_for(own_device=self.own_device, cores=default_workers())
        kind, self.infer_threads = extractor.device.partition(":")[0], self.lanes
        if self.own_device:
            self.infer_threads = THREADS_PER_DEVICE if kind == "cuda" else 1
        self.medium = extractor.transform.medium
        start = batch_size or first_batch(extractor)
        self.size = BatchSize(start, ramp=self.own_device and batch_size is None, most=largest_batch(extractor))
        self.notes: deque[str] = deque()
        self.compile_seconds = self.infer_seconds = 0.0
        self.compiling = False
        self._compile = compile if isinstance(extractor, Compilable) else "off"
        self._gain = COMPILE_GAIN if _has_batch_norms(extractor) else COMPILE_GAIN_PLAIN
        if kind == "mps" and self._compile != "off":  # the compiler would be a second thread on it
            if compile == "on":
                self.notes.append("note: networks are not compiled on mps")
            self._compile = "off"
        self._compiled_for = start
        self._times: deque[float] = deque(maxlen=1000)  # seconds per input, of whole batches
        self._eager_time: float | None = None
        self._lock = threading.Lock()

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """(B, …) → (B, width) float32, in as many pieces as memory asks for; threads may share it."""
        vectors, done, alone = np.empty((len(inputs), self.extractor.width), np.float32), 0, False
        while done < len(inputs):
            # What failed is tried again alone: for what others hold, half the size, and its half, would seem too much
            with _TURNS.alone() if alone else _TURNS.shared():
                found = self._try(inputs[done:])
            alone = found is None
            if found is not None:
                vectors[done : done + len(found)] = found
                done += len(found)
        return vectors

    def _try(self, inputs: np.ndarray) -> np.ndarray | None:
        """Vectors of as many of the first inputs as go through at once; None if they did not, and fewer shall."""
        extractor = self.extractor
        most = self.size.current if extractor is self._eager else min(self.size.current, self._compiled_for)
        size, started = min(most, len(inputs)), time.perf_counter()
        try:
            found = extractor.embed(inputs[:size])
        except OutOfMemory as error:
            self._back_off(extractor, size, error)
            return None
        finally:
            with self._lock:
                self.infer_seconds += time.perf_counter() - started
        if len(found) != size:  # NumPy would spread a single row over all
            raise BackboneError(f"{extractor.name} gave {len(found)} vectors for {size} {plural(self.medium)}")
        self._record(extractor, size, time.perf_counter() - started)
        return found

    @property
    def infer_floor(self) -> float | None:
        """Seconds per input of the fastest tenth of batches; None before enough have run."""
        with self._lock:
            times = list(self._times)
        return quantiles(times, n=10)[0] if len(times) >= TRIALS else None

    def wants_compiling(self, left: int) -> bool:
        """Whether enough inputs are left that compiling now may pay and cannot cost much; True at most once."""
        if not self.size.settled:  # it is made for one size
            return False
        if self._compile == "auto":
            with self._lock:
                times = list(self._times)
            if len(times) < TRIALS * self.infer_threads:
                return False
            seconds = left * median(times) / self.infer_threads
            if (1 - 1 / self._gain) * seconds < COMPILE_SECONDS:
                return False
        elif self._compile == "off":
            return False
        self._compile = "off"
        return True

    def compile(self) -> None:
        """Compile the network, while no other thread infers; a failure leaves it as it was, and a note.

        So does a batch size that no longer holds when it is done. The others must wait: while torch traces, it has
        replaced what every module does when it is called, by whichever thread. And they would hardly come on, as the
        compiler keeps the interpreter's lock to itself.
        """
        if not self.own_device and not _has_compiler():
            self.notes.append("note: no C++ compiler found (g++, or the environment's CXX); not compiled")
            return
        size = self.size.current
        with _TURNS.alone():
            self.compiling, started = True, time.perf_counter()
            try:
                made = self._eager.compile(size)
            except Exception as error:  # a run can do without, whatever it is
                reason = str(error) if isinstance(error, BackboneError) else f"cannot be compiled: {error!r}"
                self.notes.append(f"note: {reason}; continuing uncompiled")
                return
            finally:
                self.compiling, self.compile_seconds = False, time.perf_counter() - started
        with self._lock:
            if self.size.current != size:  # fewer would be filled up to it
                many = f"{size} {plural(self.medium)} at once"
                self.notes.append(f"note: compiled for {many}, which is too many; continuing uncompiled")
                return
            self._eager_time = median(self._times) if self._times else None
            self._times.clear()
            self._compiled_for, self.extractor = size, made
        self.notes.append(f"compiled in {self.compile_seconds:.0f} s")

    def finish(self) -> None:
        """Say what was asked for and did not come about."""
        if self._compile == "on" and not self.size.settled:
            self.notes.append(
                "note: not compiled, because the run ended before a batch size was found; set the batch size to compile"
            )

    def back_off(self, size: int) -> None:
        """Take note, once, that memory did not suffice for this number of inputs at once."""
        with self._lock:
            self._halve(size)

    def _halve(self, size: int) -> bool:
        if not self.size.halve(size):
            return False
        self._times.clear()
        many, device = f"{size} {plural(self.medium)}", self.extractor.device
        self.notes.append(f"note: out of memory with {many} at once on {device}; continuing with {size // 2}")
        return True

    def _record(self, extractor: Embedder, size: int, seconds: float) -> None:
        with self._lock:
            if extractor is not self.extractor or size != self.size.current:  # a rest says little
                return
            self._times.append(seconds / size)
            self.size.record(size, seconds)
            compiled = extractor is not self._eager
            if compiled and self._eager_time is not None and len(self._times) >= TRIALS * self.infer_threads:
                if median(self._times) > self._eager_time:
                    self.notes.append("note: the compiled network is slower here; continuing uncompiled")
                    self.extractor = self._eager
                    self._times.clear()
                self._eager_time = None

    def _back_off(self, extractor: Embedder, size: int, error: OutOfMemory) -> None:
        with self._lock:
            if extractor is not self._eager:  # made for one size; and of what it fails, the eager one can say
                if extractor is self.extractor:
                    self.notes.append(
                        "note: the compiled network failed (possibly out of memory); continuing uncompiled"
                    )
                self.extractor, self._compile = self._eager, "off"
                self._times.clear()
            elif not self._halve(size) and size == 1:
                raise error


class _Turns:
    """Lets in many threads together, or one alone."""

    def __init__(self) -> None:
        self._changed, self._inside, self._alone = threading.Condition(), 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True  # nobody else comes in
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


_TURNS = _Turns()  # of the whole process: memory and the compiler's tracing are all engines' affair


def first_batch(extractor: Embedder) -> int:
    """Inputs per batch to begin with, where nobody has said how many; an accelerator may double it."""
    if extractor.device.startswith("cpu"):
        return lane_batch(extractor)
    return min(RAMP_FROM, largest_batch(extractor))


def largest_batch(extractor: Embedder) -> int:
    """The most inputs of a batch that an accelerator tries."""
    transform = extractor.transform
    return max(1, min(RAMP_TO, RAMP_BYTES // (prod(transform.shape) * transform.dtype.itemsize)))


def lane_batch(extractor: Embedder) -> int:
    """Inputs per batch of one core: few large ones, more small ones."""
    return min(64, max(4, LANE_COST // extractor.transform.cost))


def _has_batch_norms(extractor: Embedder) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(extractor, Compilable) and any(
        isinstance(part, _BatchNorm) for part in extractor.module.modules()
    )


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name)
