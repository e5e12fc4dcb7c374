"""Notes on how a probe was fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featurepipe import probes
from featurepipe.solvers import Certificate


def fit_notes(fitted: probes.Probe) -> list[str]:
    """Notes of the fit and of its kind, on a choice at the end of its grid, and on optima that were not reached."""
    kind = probes.KINDS[probes.ONE if fitted.kind == probes.MULTI_LABEL else fitted.kind]
    name = kind.parameter
    notes = [*fitted.notes, *([] if fitted.kind == probes.MULTI_LABEL else kind.notes(fitted.estimator))]
    if fitted.path and fitted.selected_on != "given":
        if isinstance(fitted.chosen, dict):
            ends = [label for label, C in fitted.chosen.items() if kind.is_at_edge(C)]
            notes += (
                [f"the {name} of {probes.listed(ends)} is the first or last value tried; a better one may lie beyond"]
                if ends
                else []
            )
        elif name is not None and fitted.chosen is not None and kind.is_at_edge(fitted.chosen):
            notes.append(edge_note(name, fitted.chosen, [step[name] for step in fitted.path]))
    return notes + optimum_notes(name, fitted.path, fitted.certificate)


def edge_note(name: str, chosen: float, tried: Sequence[float]) -> str:
    """That a strength is the largest or smallest of those tried."""
    which = "largest" if chosen >= max(tried) else "smallest"
    return f"{name}={chosen:g} is the {which} value tried; a better one may lie beyond"


def optimum_notes(
    name: str | None,
    path: Sequence[Mapping[str, Any]],
    certificate: Certificate | Mapping[str, Certificate] | None,
) -> list[str]:
    """A note on the fits of a path of strengths called `name`, and final ones, that did not reach their optimum."""
    stalled = [] if name is None else [f"{step[name]:g}" for step in path if not step.get("converged", True)]
    final = certificate.values() if isinstance(certificate, Mapping) else [certificate] if certificate else []
    stalled += [f"{C:g} (final fit)" for C in sorted({one.C for one in final if not one.converged})]
    return [f"the optimum was not reached at {name}={', '.join(stalled)}"] if stalled else []
