"""What a user may ask of a probe."""

from __future__ import annotations

from dataclasses import dataclass

from featurepipe.errors import ProbeError
from featurepipe.matrices import Parts
from featurepipe.probes.kinds import KINDS, VECTORS, candidates_of, check_kind
from featurepipe.probes.labels import ONE
from featurepipe.probes.parts import fit_parts
from featurepipe.probes.selection import Probe
from featurepipe.probes.shots import check_few
from featurepipe.signatures import documented
from featurepipe.vocabulary import ProbeOptions
from featurepipe.vocabulary.names import BASELINES


@documented(fields=ProbeOptions)
@dataclass(frozen=True)
class Options(ProbeOptions):
    """How a probe is fitted, and what it is compared with.

    Parameters
    ----------
    fields
    """

    def check(self) -> None:
        """Raise ProbeError for what cannot be done, before anything is read."""
        if self.baselines not in BASELINES:
            raise ProbeError(f"baselines {self.baselines!r} is unknown; use {', '.join(BASELINES)}")
        if self.multi_label and self.kind != ONE:
            raise ProbeError(f"a multi-label probe is logistic, not {self.kind}; leave out the kind, or multi-label")
        if self.multi_label and self.shots:
            raise ProbeError("few-shot evaluation needs one class per sample; drop --shots or --multi-label")
        check_few(self.shots, self.repeats, self.semi)
        if self.text is not None and not self.shots:
            raise ProbeError(
                "methods that start from class names need a number of labels per class; add shots, such as --shots 1,5"
            )
        check_kind(self.kind, self.class_weight, self.probe_device)
        if self.semi and KINDS[self.kind].reads != VECTORS:
            raise ProbeError(f"semi-supervised lines are of vectors, and {self.kind} probes read tokens; drop --semi")
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
