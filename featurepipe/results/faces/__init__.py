"""The faces of results: for each stage a function that makes a `Face` of its dict. A new stage is a new entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from featurepipe.results.faces import files, findings, probes, trainings
from featurepipe.results.tables import Face

__all__ = ["FACES"]

FACES: dict[str, Callable[[Mapping[str, Any]], Face]] = {
    "extract": files.extract,
    "info": files.info,
    "verify": files.verify,
    "export": files.export,
    "report": files.report,
    "explain": files.explain,
    "predict": files.predict,
    "paint": files.paint,
    "probe": probes.probe,
    "probe_layers": probes.probe_layers,
    "probe_protocol": probes.probe,
    "probe_tasks": probes.probe_tasks,
    "segment": probes.segment,
    "zeroshot": files.zeroshot,
    "push": files.push,
    "pull": files.pull,
    "evaluate": probes.evaluate,
    "run": probes.run,
    "compare": probes.compare,
    "advise": findings.advise,
    "audit": findings.audit,
    "search": findings.search,
    "label": findings.label,
    "finetune": trainings.finetune,
    "pretrain": trainings.pretrain,
}
