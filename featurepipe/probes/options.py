"""What a user may ask of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurepipe.errors import ProbeError
from featurepipe.matrices import Parts
from featurepipe.probes.kinds import candidates_of, check_kind
from featurepipe.probes.labels import ONE
from featurepipe.probes.parts import fit_parts
from featurepipe.probes.selection import Probe
from featurepipe.probes.shots import check_few
from featurepipe.vocabulary import BASELINES


@dataclass(frozen=True)
class Options:
    """How a probe is fitted, and what it is compared with; the fields are parameters of `featurepipe.probe`."""

    kind: str = "logistic"
    value: float | None = None
    class_weight: str | None = None
    multi_label: bool = False
    shots: Sequence[int] = ()
    repeats: int = 10
    semi: bool = False
    baselines: str = "simple"
    seed: int = 0
    probe_device: str = "cpu"

    def check(self) -> None:
        """Raise ProbeError for what cannot be done, before anything is read."""
        if self.baselines not in BASELINES:
            raise ProbeError(f"baselines {self.baselines!r} is unknown; use {', '.join(BASELINES)}")
        if self.multi_label and self.kind != ONE:
            raise ProbeError(f"a multi-label probe is logistic, not {self.kind}; leave out the kind, or multi-label")
        if self.multi_label and self.shots:
            raise ProbeError("few-shot evaluation needs one class per image; drop --shots or --multi-label")
        check_few(self.shots, self.repeats, self.semi)
        check_kind(self.kind, self.class_weight, self.probe_device)
        candidates_of(self.kind, self.value)

    def fit(self, parts: Parts, *, measure: bool = True) -> Probe:
        """`featurepipe.probes.parts.fit_parts` with these options."""
        return fit_parts(
            self.kind,
            parts,
            value=self.value,
            seed=self.seed,
            class_weight=self.class_weight,
            device=self.probe_device,
            multi_label=self.multi_label,
            measure=measure,
        )
