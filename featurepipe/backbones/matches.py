"""Which tensors of a weights file are a network's: inside which dictionary, behind which prefix, under which names."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from featurepipe.backbones import efficientnets
from featurepipe.backbones.formats import NUMPY, Content, Unfit
from featurepipe.backbones.specs import TimmModule

if TYPE_CHECKING:
    import torch

DEPTH = 4  # dictionaries inside each other
# The dictionaries that timm looks into, in its order; and the prefixes that it takes off.
TIMM_PLACES = ("state_dict_ema", "model_ema", "state_dict", "model")
TIMM_PREFIX = re.compile(r"(module\.|_orig_mod\.)*(backbone\.)?")
# What wrappers call the network inside them: only where names have to be converted, as prefixes are found by the names
# themselves otherwise.
WRAPPER = re.compile(
    r"((_orig_mod|module|(ema_|base_)?model(_ema)?|ema|net|network|backbone|vit|visual|trunk|teacher|student|encoder_[qk]"
    r"|((image|vision|base|online|momentum|target|context)_)?encoder|vision_(model|tower)|feature_extractor|shadow)\.)+"
)
# Parts that only training, another task or a profiler needs: no embedding depends on them.
TRAINING = re.compile(
    r"(mask_token|masked_embed|(\w*_)?heads?(_\w+)?|fc|classifier|proj(ection)?_head|projection|projector|predictor"
    r"|decoder(_\w+)?|queue(_\w+)?|prototypes?|(\w+_)?loss(_\w+)?|criterion|auxlogits|aux_classifier|n_averaged"
    r"|num_updates|logit_(scale|bias))(\.|$)|(.*\.)?(total_(ops|params)|num_batches_tracked)$",
    re.IGNORECASE,
)
AVERAGED, SECONDARY = {"ema", "teacher"}, {"student", "momentum", "target", "k"}  # of two that fit: which, which not


@dataclass(frozen=True)
class Attempt:
    """How well some tensors fit a network.

    Attributes
    ----------
    place : tuple of str
        The keys of the dictionaries that lead to them, then the prefix of their names.
    state : dict of Tensor
        Under the network's names.
    lacking, unknown, reshaped : tuple of str
        Names that do not fit.
    """

    place: tuple[str, ...]
    state: Mapping[str, torch.Tensor] = field(repr=False)
    lacking: tuple[str, ...]
    unknown: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is wrong with it."""
        return not (self.lacking or self.unknown or self.reshaped)

    @property
    def title(self) -> str:
        """Where in the file it is."""
        return " › ".join(repr(part) for part in self.place if part) or "the tensors that are in no dictionary"


class Target:
    """A network that wants weights: its tensors, and timm's own conversions for it."""

    def __init__(self, module: TimmModule) -> None:
        self.module, self.own = module, module.state_dict()
        # Counters of batches are absent from some files, and used by none.
        self.needed = {key for key in self.own if not key.endswith("num_batches_tracked")}
        classifiers = module.pretrained_cfg.get("classifier") or ()
        first = module.pretrained_cfg.get("first_conv") or ()
        self.first = {f"{name}.weight" for name in ([first] if isinstance(first, str) else first)}
        self.classifiers = tuple(f"{c}." for c in ([classifiers] if isinstance(classifiers, str) else classifiers))

    @cached_property
    def conversions(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """How the names and shapes of other people's files become the network's: timm's own ways first."""
        import timm

        homes = [type(self.module).__module__]
        if timm.is_model(architecture := self.module.pretrained_cfg.get("architecture", "")):
            homes.append(timm.model_entrypoint(architecture).__module__)
        found: dict[Any, list[Any]] = {}
        for home in homes:
            kinds = inspect.getmembers(sys.modules[home], inspect.isfunction)
            filters = [one for name, one in kinds if "filter_fn" in name or name.startswith("_filter_")]
            for one in sorted(filters, key=lambda one: one.__name__ != "checkpoint_filter_fn"):
                found[one] = [self._conversion(one)]
                if "adapt_layer_scale" in inspect.signature(one).parameters:  # DeiT III
                    found[one].append(self._conversion(partial(one, adapt_layer_scale=True)))
        of_timm = [conversion for pair in found.values() for conversion in pair]
        return [*of_timm, self._conversion(efficientnets.renamed)]

    def _conversion(self, function: Callable[..., dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        wants_module = "model" in inspect.signature(function).parameters
        return (lambda state: function(state, self.module)) if wants_module else function

    def _for_channels(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """Weights of colours for a first layer that takes other channels (``in_chans``): timm's own adaptation."""
        wanted = self.own[key].shape
        if key not in self.first or value.ndim != 4 or value.shape[1] != 3 or wanted[1] == 3:
            return value
        from timm.models import adapt_input_conv

        return adapt_input_conv(wanted[1], value) if value.shape[2:] == wanted[2:] else value

    def attempt(self, place: tuple[str, ...], state: Mapping[str, torch.Tensor], *, spare: bool = True) -> Attempt:
        """Compare tensors with the network's; `spare` forgives what only training needs, not the classifier alone."""
        own = self.own
        kept = {key: self._for_channels(key, value) for key, value in state.items() if key in own}
        unknown = [key for key in state if key not in own and not f"{key}.".startswith(self.classifiers)]
        return Attempt(
            place,
            kept,
            lacking=tuple(sorted(self.needed - kept.keys())),
            unknown=tuple(sorted(key for key in unknown if not (spare and TRAINING.match(key)))),
            reshaped=tuple(sorted(key for key, value in kept.items() if own[key].shape != value.shape)),
        )

    def best_attempt(self, place: tuple[str, ...], state: Mapping[str, torch.Tensor]) -> Attempt:
        """As the tensors are if they fit; else as timm converts them, if that does; else what is nearest."""
        plain = self.attempt(place, state, spare=False)
        if plain.fits:
            return plain
        forgiven = self.attempt(place, state)
        sizes = {key: value.numel() for key, value in state.items()}
        resized = [key for key in plain.reshaped if self.own[key].numel() != sizes[key]]
        if all("pos" in key for key in resized):  # position tables may be resampled for another img_size, nothing else
            for convert in self.conversions:
                converted = self.attempt(place, _converted(state, convert))
                if converted.fits:
                    return converted
        return forgiven


def _converted(
    state: Mapping[str, torch.Tensor], convert: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, torch.Tensor]:
    """What a conversion of timm's makes of tensors: nothing where it fails, as on another architecture's it may."""
    try:
        return _tensors(convert(dict(state)))
    except Exception:  # it takes for granted what names and shapes there are, and raises anything where it errs
        return {}


def find_weights(content: Content, module: TimmModule, name: str) -> tuple[dict[str, torch.Tensor], str | None]:
    """The tensors of a file that are a network's, and which were taken where several would fit.

    If several differ, what timm takes goes first, then averaged weights (EMA, a teacher), as their users do.

    Raises
    ------
    BackboneError
        None fits, or several fit of which none goes first.
    """
    target = Target(module)
    attempts = [
        target.best_attempt((*keys, prefix), stripped)
        for keys, tensors in _dictionaries(content.values)
        if len(tensors) * 3 >= len(target.needed)  # an optimizer holds hundreds of small ones
        for prefix, stripped in _stripped(tensors, target)
    ]
    if content.format == NUMPY and hasattr(module, "load_pretrained") and not any(one.fits for one in attempts):
        attempts.append(target.attempt((), _read_by_timm(content, module)))
    fitting = _distinct([one for one in attempts if one.fits])
    if not fitting:
        raise Unfit(_refusal(content, target, attempts, name))
    first = content.values
    picked = next((key for key in TIMM_PLACES if first.get(key) is not None), None)
    ranks = [_rank(one.place, picked) for one in fitting]
    best = [one for one, rank in zip(fitting, ranks, strict=True) if rank == min(ranks)]
    titles = ", ".join(one.title for one in fitting)
    if len(best) > 1:
        raise Unfit(
            f"{content.path} holds {len(best)} networks that fit {name} and differ ({titles}); "
            "save the one that you want: torch.save(THAT_STATE_DICT, 'weights.pth')"
        )
    taken = f"{content.path} holds {len(fitting)} networks that fit: {titles}; taken: {best[0].title}"
    return dict(best[0].state), taken if len(fitting) > 1 else None


def _dictionaries(values: Mapping[Any, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every dictionary that holds tensors, however deep, with the keys that lead to it; floats as float32."""
    if tensors := _tensors(values):
        yield keys, tensors
    for key, value in values.items():
        if isinstance(value, Mapping) and len(keys) < DEPTH:
            yield from _dictionaries(value, (*keys, str(key)))


def _tensors(values: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    import torch

    tensors = {key: v for key, v in values.items() if isinstance(key, str) and isinstance(v, torch.Tensor)}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _stripped(tensors: Mapping[str, torch.Tensor], target: Target) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors behind each prefix that may be a wrapper's, without it: those behind which most names fit."""
    counts: Counter[str] = Counter({"": 0})
    for key in tensors:
        counts.update(prefix for prefix in _prefixes(key) if key[len(prefix) :] in target.own)
    enough = min(max(counts.values()), len(target.needed))
    fitting = [prefix for prefix, count in counts.items() if count >= enough]
    wrapped = [prefix for key in tensors for prefix in _prefixes(key)[1:] if WRAPPER.fullmatch(prefix)]
    for prefix in dict.fromkeys(["", *fitting, *wrapped]):
        yield prefix, {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _prefixes(key: str) -> list[str]:
    """All beginnings of a name that end with a dot, and none.

    Examples
    --------
    >>> _prefixes("module.conv.weight")
    ['', 'module.', 'module.conv.']
    """
    return ["", *(key[: match.end()] for match in re.finditer(r"\.", key))]


def _read_by_timm(content: Content, module: TimmModule) -> dict[str, torch.Tensor]:
    """The tensors that a network's own reader finds in an archive of JAX weights; those that it finds only."""
    import torch

    reader = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in reader.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))  # what stays so was not read
        try:
            reader.load_pretrained(str(content.path))
        except Exception:  # it takes for granted that the weights are this architecture's
            return {}
    return {key: value for key, value in reader.state_dict().items() if not value.isnan().all()}


def _distinct(attempts: list[Attempt]) -> list[Attempt]:
    """Without those whose tensors all equal an earlier one's."""
    kept: list[Attempt] = []
    for one in attempts:
        if not any(_equal(one.state, other.state) for other in kept):
            kept.append(one)
    return kept


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def _rank(place: tuple[str, ...], picked: str | None) -> tuple[int, int]:
    """Which of several goes first: the lowest."""
    *keys, prefix = place or ("",)
    if keys == ([picked] if picked else []) and TIMM_PREFIX.fullmatch(prefix):
        return 0, 0 if prefix.endswith("backbone.") else 1
    words = {word for part in place for word in re.split(r"[._]", part.lower())}
    return (1 if words & AVERAGED else 3 if words & SECONDARY else 2), 0


def _refusal(content: Content, target: Target, attempts: list[Attempt], name: str) -> str:
    """Why none fits: of the nearest, what is wrong; what the file holds; what to do."""
    held = dict(_dictionaries(content.values))
    if not held:
        inside = ", ".join(map(repr, list(content.values)[:4])) or "nothing"
        return f"{content.path} holds no weights: it is {content.format} with {inside}"
    largest = max(held, key=lambda keys: len(held[keys]))
    where = Attempt(largest, {}, (), (), ()).title
    others = f" in {where}" if largest else ""
    others += f", one of {len(held)} dictionaries" if len(held) > 1 else ""
    count = f"{len(held[largest])} tensor{'s' * (len(held[largest]) > 1)}"
    holds = f"{content.format} with {count}{others}, first {_listed(list(held[largest]))}"
    nearest = min(
        attempts or [target.attempt((*largest, ""), held[largest])],
        key=lambda one: len(one.lacking) + len(one.reshaped) + len(one.unknown) / 1000,
    )
    for keys, what in (
        (nearest.lacking, "lacks {} of its tensors"),
        (nearest.unknown, "has unknown {} of its tensors"),
        (nearest.reshaped, "has other shapes for {} of its tensors"),
    ):
        if keys:
            return (
                f"{content.path} does not fit {name}: it {what.format(len(keys))} ({_listed(list(keys))}); "
                f"it is {holds}; check the name, and --backbone-arg (arguments= in Python) for what shapes the network"
            )
    raise AssertionError("nothing is wrong with weights that were refused")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + ("…" if len(names) > 3 else "")
