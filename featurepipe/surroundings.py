"""Settings of the whole process or thread: the package works under its own, and leaves the caller's as they were.

A notebook may have told NumPy to raise on underflow, scikit-learn to return tables, or PyTorch to compute in float64,
on another device or without gradients. Whatever users call is `guarded` against all of that, once, where they enter.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}  # as it comes
SKLEARN = {
    "assume_finite": False,
    "array_api_dispatch": False,
    "enable_metadata_routing": False,
    "skip_parameter_validation": False,
    "transform_output": "default",
}
AUTOCAST = ("cpu", "cuda", "mps")
_INSIDE = threading.local()

P = ParamSpec("P")
R = TypeVar("R")


class _Process:
    """What all threads share: PyTorch's default floats, and how exactly it multiplies them.

    Whoever enters sets them; the last to leave puts back what the first one found.
    """

    def __init__(self) -> None:
        self.lock, self._users = threading.Lock(), 0
        self._dtype: torch.dtype | None = None
        self._precision: str | None = None
        self.forked = False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        with self.lock:
            self._users += 1
            self._set()
        try:
            yield
        finally:
            with self.lock:
                self._users -= 1
                if not self._users:
                    self._put_back()

    def _set(self) -> None:
        torch = sys.modules.get("torch")  # one that is not loaded yet will be as it comes
        if torch is None:
            return
        if torch.get_default_dtype() != torch.float32:
            self._dtype = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        if torch.get_float32_matmul_precision() != "highest":  # else float32 means TF32 or bfloat16 here and there
            self._precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")

    def _put_back(self) -> None:
        if self._dtype is not None:  # so it is loaded; an import here would hide why loading it has just failed
            sys.modules["torch"].set_default_dtype(self._dtype)
        if self._precision is not None:
            sys.modules["torch"].set_float32_matmul_precision(self._precision)
        self._dtype = self._precision = None

    def begin_anew(self) -> None:
        """In a child that was forked: other threads, which may be inside, are not there."""
        self.forked = True
        self.lock = threading.Lock()
        self._users = int(_is_inside())


_PROCESS = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_PROCESS.begin_anew)


@contextmanager
def own_settings() -> Iterator[None]:
    """Within, everything is set as the libraries come; afterwards it is as it was.

    Examples
    --------
    >>> with np.errstate(under="raise"):
    ...     with own_settings():
    ...         tiny = np.exp(np.float64(-1000))
    >>> float(tiny)
    0.0
    """
    if _is_inside():
        yield
        return
    _INSIDE.now = True
    try:
        with _PROCESS.guarded(), ExitStack() as stack:
            _enter(stack)
            yield
    finally:
        _INSIDE.now = False


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """A function or method that runs under `own_settings`."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        if _is_inside():
            return function(*args, **kwargs)
        with own_settings():
            return function(*args, **kwargs)

    inside.is_guarded = True  # type: ignore[attr-defined]  # functions have no such attribute, but this one
    return inside


def _is_inside() -> bool:
    return getattr(_INSIDE, "now", False)


def _enter(stack: ExitStack) -> None:
    """Set what is this thread's own, of the libraries that are loaded."""
    numpy, sklearn, torch = (sys.modules.get(name) for name in ("numpy", "sklearn", "torch"))
    if numpy is not None:
        stack.enter_context(numpy.errstate(**NUMPY))
    if sklearn is not None:
        known = sklearn.get_config().keys()
        stack.enter_context(sklearn.config_context(**{key: SKLEARN[key] for key in SKLEARN.keys() & known}))
    if torch is not None:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if _makes_elsewhere(torch):
            stack.enter_context(torch.device("cpu"))
    if _PROCESS.forked:
        _enter_one_thread(stack)


def _enter_one_thread(stack: ExitStack) -> None:
    """The threads of OpenMP do not survive a fork, and whoever shares work with them then waits for ever."""
    from threadpoolctl import threadpool_limits

    stack.enter_context(threadpool_limits(1))
    if (torch := sys.modules.get("torch")) is not None:  # it keeps a number of its own
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)


def _makes_elsewhere(torch: ModuleType) -> bool:
    """Whether tensors are made on another device than the CPU where nobody says which."""
    try:
        return torch.get_default_device().type != "cpu"
    except (RuntimeError, AssertionError):  # it has to make one to know, and there may be no such device
        return True
