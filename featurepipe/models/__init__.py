"""Models: the file that a probe or a tuned network is written to, what it is made from, and what it answers."""

from featurepipe.models.files import (
    LARGEST,
    SUFFIX,
    Model,
    carries_backbone,
    check_output,
    check_suffix,
    check_width,
    digest_keys,
    find,
    is_model,
    load,
    locate,
    open_backbone,
    portable,
    save,
    seen_in_tuning,
)

__all__ = [
    "LARGEST",
    "SUFFIX",
    "Model",
    "carries_backbone",
    "check_output",
    "check_suffix",
    "check_width",
    "digest_keys",
    "find",
    "is_model",
    "load",
    "locate",
    "open_backbone",
    "portable",
    "save",
    "seen_in_tuning",
]
