"""What a file may make featurepipe do: the one place where that is decided.

Model files, shards and weights files say of which network they are: its architecture and arguments, and where its
weights were. A file may come from anybody, so none of this is believed. Without `trust` a description

- has only arguments that timm's own networks take to shape themselves: none that names a file, a URL or a cache;
- names no repository of a hub and no folder, from which code that reads configurations would fetch more;
- names a weights file, or an ONNX file, only together with the digest that its weights must have; it is a regular file
  here, of a suffix of weights, and no word of its content is shown;
- makes no network that takes much more memory than the weights that it is for, or gigabytes for one image.

Weights that timm itself has for a name that it knows are those that ``extract -b NAME`` would take. Without trust they
are taken from this machine's caches alone, and no host is asked.
"""

from __future__ import annotations

import inspect
import os
import stat
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import prod
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, cast

from featurepipe.backbones.formats import Unfit
from featurepipe.backbones.networks import check_name
from featurepipe.backbones.weights import OPTION
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.files import size_text

DOWNLOAD = "download them with --trust (trust=True in Python)"
if TYPE_CHECKING:
    import torch

    from featurepipe.backbones.specs import TimmModule

ALLOW = "allow it with --trust (trust=True in Python)"
GIVE = "give the weights yourself with --weights (weights= in Python)"
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".tar", ".ckpt", ".th", ".pkl")
MOUNTED = ("/net/", "/afs/", "/proc/")  # where a name alone mounts another machine's folder, or leads to these
SHAPING = {"bn_eps", "bn_momentum", "bn_tf", "in_chans"}  # which timm takes out of the arguments on the way
RUNNING = {"device", "dtype", "kwargs", "self", "cfg"}  # which say where a network runs, or cannot come from JSON
LARGEST_NUMBER, LONGEST_LIST, LONGEST_TEXT = 2**14, 64, 100  # of arguments
LARGEST_INPUT = 2048 * 2048  # pixels: four times what any network of timm takes
ROOM = 2 * 10**9  # bytes that a network may take, beyond twice the size of its weights; and one step on an image
AGAIN = 4  # times that a constructor makes a tensor: timm fills some anew
MOST_TENSORS = 20_000  # of a network: ten times those of timm's largest


def check_arguments(architecture: str, arguments: Mapping[str, Any], who: str) -> None:
    """Refuse arguments that do more than shape a network, and architectures that are fetched from elsewhere.

    Parameters
    ----------
    architecture : str
        A name that timm knows, or one that leads elsewhere.
    arguments : mapping
        As the file has them.
    who : str
        The file, in words.

    Raises
    ------
    BackboneError
        It says what the file wants to do.
    """
    if ":" in architecture:
        raise BackboneError(f"{who} wants to fetch its network from {_shown(architecture)}; {ALLOW}, or {GIVE}")
    known = _shaping(architecture)
    for name, value in arguments.items():
        if name not in known:
            raise BackboneError(
                f"{who} wants to pass timm the argument {_shown(name)}, which is not known to shape {architecture}; "
                f"{ALLOW}"
            )
        if not _is_plain(value):
            raise BackboneError(f"{who} gives {name} the value {_shown(value)}, which no network has; {ALLOW}")


def _shaping(architecture: str) -> set[str]:
    """What the networks of an architecture's module take, without what timm's own makers take for themselves."""
    import timm.models
    import torch
    from timm.models import build_model_with_cfg, create_model, load_pretrained, model_entrypoint

    if not timm.is_model(architecture):  # which whoever makes it says in one line
        return set(SHAPING)
    module = sys.modules[model_entrypoint(architecture).__module__]
    networks = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, torch.nn.Module)]
    taken = [inspect.signature(one.__init__).parameters for one in networks]
    makers = (inspect.signature(one).parameters for one in (create_model, build_model_with_cfg, load_pretrained))
    own = {name for parameters in taken if "num_classes" in parameters for name in parameters}
    return (own - RUNNING).difference(*makers) | SHAPING


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is a number, a word, or a short list of them."""
    if isinstance(value, list | tuple):
        return depth < 3 and len(value) <= LONGEST_LIST and all(_is_plain(one, depth + 1) for one in value)
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and not set("/\\:") & set(value)
    return value is None or (isinstance(value, bool | int | float) and abs(value) <= LARGEST_NUMBER)


def check_size(
    architecture: str, arguments: Mapping[str, Any], input_size: Sequence[int], room: int | None, who: str
) -> None:
    """Refuse a network that would take more memory than there is reason to, before it is made.

    Parameters
    ----------
    architecture, arguments, who
        As for `check_arguments`, which has let them pass.
    input_size : sequence of int
        Channels, height, width.
    room : int or None
        Bytes of the weights that it is for; None where timm's own network of this name is the measure.

    Raises
    ------
    BackboneError
        It says how much is asked for, and how much would be allowed.
    """
    check_input(input_size, who)
    if room is None:
        room = network_bytes(architecture, {}, sys.maxsize)
    check_room(_maker(architecture, arguments), input_size, room, who)


def check_room(make: Callable[[], TimmModule], input_size: Sequence[int], room: int, who: str) -> None:
    """As `check_size`, of a network with timm's methods that any function makes; `room` is that of its weights."""
    most = ROOM + 2 * room
    module, taken = _on_meta(make, most)
    if taken > most:
        raise BackboneError(
            f"{who} describes a network that takes more than {size_text(most)} of memory, the most that its "
            f"weights explain; {ALLOW}"
        )
    if module is not None and (taken := largest_activation(module, input_size)) > ROOM:
        raise BackboneError(
            f"{who} describes a network that takes {size_text(taken)} for one step on one image, more than "
            f"{size_text(ROOM)}; {ALLOW}"
        )


def check_input(input_size: Sequence[int], who: str, most: int = LARGEST_INPUT) -> None:
    """Refuse images of more pixels than any network takes, or than `most`."""
    if prod(input_size[1:]) > most:
        size = "×".join(map(str, input_size))
        raise BackboneError(f"{who} wants to compute on images of {size}, more than any network takes; {ALLOW}")


def network_bytes(architecture: str, arguments: Mapping[str, Any], most: int) -> int:
    """Bytes that a network's tensors take, without taking them; a number above `most` where they are more.

    Whether the network can be made at all is left to whoever makes it.

    Examples
    --------
    >>> network_bytes("test_resnet", {}, 10**9)
    1499192
    """
    return _on_meta(_maker(architecture, arguments), most)[1]


def _maker(architecture: str, arguments: Mapping[str, Any]) -> Callable[[], TimmModule]:
    import timm

    return partial(timm.create_model, architecture, pretrained=False, num_classes=0, **arguments)


def _on_meta(make: Callable[[], TimmModule], most: int) -> tuple[torch.nn.Module | None, int]:
    """A network without its numbers, where it can be made, and `network_bytes`."""
    import torch

    with torch.device("meta"), _counter(most) as counted:
        try:
            module = make()
        except _TooMuch:
            return None, most + 1
        except Exception:  # constructors raise anything on arguments that do not fit
            return None, counted.bytes
    return module, sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def largest_activation(module: torch.nn.Module, input_size: Sequence[int]) -> int:
    """Bytes of the largest tensor of a forward pass on one image, of a network without numbers.

    Attention counts as if it held all its weights at once, which some of its implementations do. Where the pass cannot
    be made without numbers, what came before counts.
    """
    import torch

    with torch.device("meta"), torch.no_grad(), _largest() as seen, suppress(Exception):
        cast("TimmModule", module.eval()).forward_features(torch.empty(1, *input_size))
    return seen.bytes


def _largest() -> Any:
    """A mode of torch that keeps the size of the largest tensor."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from torch.overrides import TorchFunctionMode

    class Largest(TorchFunctionMode):
        bytes = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                self.bytes = max(self.bytes, found.nbytes)
            if func is scaled_dot_product_attention:
                self.bytes = max(self.bytes, found.nbytes // found.shape[-1] * args[1].shape[-2])
            return found

    return Largest()


class _TooMuch(Exception):
    """A network that has grown beyond its bound while it was counted."""


def _counter(most: int) -> Any:
    """A mode of torch that counts tensors as they are made, and ends that long before memory would."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Counter(TorchFunctionMode):
        bytes = made = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                if not any(isinstance(one, torch.Tensor) for one in args):  # made, and not derived from another
                    self.bytes, self.made = self.bytes + found.nbytes, self.made + 1
                if max(self.bytes / AGAIN, found.nbytes) > most or self.made > MOST_TENSORS:
                    raise _TooMuch
            return found

    return Counter()


def check_place(weights: str, digest: str | None, who: str, suffixes: tuple[str, ...] = WEIGHTS_SUFFIXES) -> Path:
    """The weights file that a file names, where it may be opened: its content is compared with the digest later.

    Raises
    ------
    WeightsUnavailable
        It is not there.
    BackboneError
        It may not be opened for a file's sake.
    """
    path = Path(weights)
    if digest is None:
        raise BackboneError(f"{who} names {_shown(weights)} for its weights, but not their digest; {GIVE}")
    if path.suffix.lower() not in suffixes or _is_remote(weights):
        raise BackboneError(f"{who} wants to open {_shown(weights)}, whose name is not that of a weights file; {GIVE}")
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise WeightsUnavailable(f"weights file {path} does not exist; give its place {OPTION}") from error
    if not stat.S_ISREG(found.st_mode) or not found.st_size:  # files of /proc, which may block, have no size
        raise BackboneError(f"{who} wants to open {_shown(weights)}, which is not a weights file; {GIVE}")
    return path


def check_plain(values: Mapping[str, Any], known: Container[str], who: str) -> None:
    """Refuse settings of a network that are not known, or are no number, word or short list of them.

    Raises
    ------
    BackboneError
        It says which.
    """
    for name, value in values.items():
        if name not in known or not _is_plain(value):
            raise BackboneError(f"{who} gives the setting {_shown(name)} the value {_shown(value)}; {ALLOW}")


def cached_weights(name: str) -> Path | None:
    """The file of timm's own weights in a cache of this machine; None where timm has none for this name.

    Raises
    ------
    BackboneError
        An unknown name.
    WeightsUnavailable
        They would have to be downloaded.
    """
    import torch
    from timm.models import get_pretrained_cfg

    check_name(name)
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return None
    places, origin = [], config.url
    if config.hf_hub_id:
        origin = f"https://huggingface.co/{config.hf_hub_id}"
        places += _in_hub_cache(config.hf_hub_id, config.hf_hub_filename)
    if isinstance(config.url, str) and config.url:
        places.append(Path(torch.hub.get_dir(), "checkpoints", config.url.rpartition("/")[2]))
    if found := next((place for place in places if place.is_file()), None):
        return found
    raise WeightsUnavailable(
        f"the weights of {name} are not on this machine, and no file may fetch them from {origin}; "
        f"{DOWNLOAD}, or {GIVE}"
    )


def _in_hub_cache(repository: str, name: str | None) -> list[Path]:
    """Where Hugging Face's cache has the weights of a repository, as timm would look for them."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    names = [name] if name else ["model.safetensors", "pytorch_model.bin"]
    if name and name.endswith(".bin"):
        names.insert(0, f"{name.removesuffix('.bin')}.safetensors")
    found = [try_to_load_from_cache(repository, one, revision=revision or None) for one in names]
    return [Path(one) for one in found if isinstance(one, str)]


def _is_remote(weights: str) -> bool:
    """Whether to look at a place may already ask another machine for it."""
    shares = PureWindowsPath(weights).drive.startswith("\\\\")  # in whichever slashes, also //host/share
    return shares or f"{os.path.normpath(weights)}/".startswith(MOUNTED)


@contextmanager
def unechoed(path: Path | None, who: str) -> Iterator[None]:
    """Say of a file that only another file has named no more than that it is not what that says; None is no such."""
    try:
        yield
    except Unfit:
        if path is None:
            raise
        raise BackboneError(
            f"{path}, which {who} names, does not hold the weights whose digest it gives; {GIVE}"
        ) from None


def _shown(value: Any) -> str:
    """A value of a file in a message: not too long, and no character that a terminal obeys."""
    text = ascii(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
