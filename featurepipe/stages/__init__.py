"""The pipeline's stages as plain functions, shared by notebook and command line.

Each takes paths and keywords, wires the nouns together, and returns a JSON-able dict; none prints. A `Listener`
hears notes and progress.
"""

from featurepipe.listeners import Listener
from featurepipe.stages.advising import advise
from featurepipe.stages.applying import evaluate, predict
from featurepipe.stages.comparing import compare
from featurepipe.stages.extracting import extract
from featurepipe.stages.following import probe_protocol
from featurepipe.stages.layering import probe_layers
from featurepipe.stages.looking import export, info, verify
from featurepipe.stages.probing import probe
from featurepipe.stages.promoting import finetune
from featurepipe.stages.running import report, run
from featurepipe.stages.tasks import probe_tasks

__all__ = [
    "Listener",
    "advise",
    "compare",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "info",
    "predict",
    "probe",
    "probe_layers",
    "probe_protocol",
    "probe_tasks",
    "report",
    "run",
    "verify",
]
