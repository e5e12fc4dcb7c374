"""The pipeline's stages as plain functions, shared by notebook and command line.

Each takes paths and keywords, wires the nouns together, and returns a JSON-able dict; none prints. A `Listener`
hears notes and progress.
"""

from featurepipe.listeners import Listener
from featurepipe.stages.acquisitions import label
from featurepipe.stages.advice import advise
from featurepipe.stages.audits import audit
from featurepipe.stages.checks import verify
from featurepipe.stages.comparisons import compare
from featurepipe.stages.contents import info
from featurepipe.stages.evaluations import evaluate
from featurepipe.stages.explanations import explain
from featurepipe.stages.exports import export
from featurepipe.stages.extractions import extract
from featurepipe.stages.layers import probe_layers
from featurepipe.stages.paintings import paint
from featurepipe.stages.pipelines import run
from featurepipe.stages.predictions import predict
from featurepipe.stages.pretexts import pretrain
from featurepipe.stages.probes import probe
from featurepipe.stages.promotions import finetune
from featurepipe.stages.protocols import probe_protocol
from featurepipe.stages.publications import pull, push
from featurepipe.stages.reports import report
from featurepipe.stages.searches import search
from featurepipe.stages.segmentations import segment
from featurepipe.stages.tasks import probe_tasks
from featurepipe.stages.zero_shot import zeroshot

__all__ = [
    "Listener",
    "advise",
    "audit",
    "compare",
    "evaluate",
    "explain",
    "export",
    "extract",
    "finetune",
    "info",
    "label",
    "paint",
    "predict",
    "pretrain",
    "probe",
    "probe_layers",
    "probe_protocol",
    "probe_tasks",
    "pull",
    "push",
    "report",
    "run",
    "search",
    "segment",
    "verify",
    "zeroshot",
]
