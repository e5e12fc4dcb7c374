"""featurepipe: embed images once with a frozen pretrained backbone, then answer everything from the cache.

The public names load on first use, so importing the package (or asking for ``featurepipe --help``) loads no torch.

Examples
--------
>>> import featurepipe
>>> result = featurepipe.run("data/digits", "/tmp/digits.featurepipe")
>>> result["test"]["top1"] > result["baselines"]["pixels"]
True
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "FeatureExtractor": "estimators",
    "FineTuner": "estimators",
    "TransferClassifier": "estimators",
    "FeaturepipeError": "errors",
    "extract": "stages",
    "probe": "stages",
    "probe_layers": "stages",
    "probe_protocol": "stages",
    "probe_tasks": "stages",
    "compare": "stages",
    "finetune": "stages",
    "pretrain": "stages",
    "advise": "stages",
    "audit": "stages",
    "search": "stages",
    "label": "stages",
    "segment": "stages",
    "evaluate": "stages",
    "predict": "stages",
    "paint": "stages",
    "explain": "stages",
    "run": "stages",
    "report": "stages",
    "info": "stages",
    "verify": "stages",
    "export": "stages",
    "zeroshot": "stages",
    "push": "stages",
    "pull": "stages",
}
__all__ = ["__version__", *_HOMES]  # names are strings


def __getattr__(name: str) -> Any:
    if name == "backbones":  # a module that can be called
        return import_module("featurepipe.backbones")
    if name not in _HOMES:
        raise AttributeError(f"module 'featurepipe' has no attribute {name!r}")
    return getattr(import_module(f"featurepipe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
