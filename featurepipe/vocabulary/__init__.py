"""What a user may say: the options of every verb, each said once, and plain names that rooms and command line share.

The classes are frozen values. `featurepipe.signatures` makes keywords of stages of them, `featurepipe.cli.flags` makes
flags of commands. They import nothing but the standard library, so that --help is quick.
"""

from featurepipe.vocabulary.answers import AnswerOptions
from featurepipe.vocabulary.atlases import AtlasOptions
from featurepipe.vocabulary.backbones import BackboneOptions, OriginOptions, TransformOptions
from featurepipe.vocabulary.extraction import ColumnOptions, ComputeOptions, ExtractOptions, TableOptions
from featurepipe.vocabulary.flags import Flag, flags_of, option
from featurepipe.vocabulary.pipelines import RunOptions
from featurepipe.vocabulary.pretexts import PretrainOptions
from featurepipe.vocabulary.probes import (
    CompareOptions,
    EntryOptions,
    FoldOptions,
    JoinOptions,
    ProbeOptions,
    ProtocolOptions,
)
from featurepipe.vocabulary.recipes import PromotionOptions, TuneOptions
from featurepipe.vocabulary.reports import PageOptions, ReportOptions

__all__ = [
    "AnswerOptions",
    "AtlasOptions",
    "BackboneOptions",
    "ColumnOptions",
    "CompareOptions",
    "ComputeOptions",
    "EntryOptions",
    "ExtractOptions",
    "Flag",
    "FoldOptions",
    "JoinOptions",
    "OriginOptions",
    "PageOptions",
    "PretrainOptions",
    "ProbeOptions",
    "PromotionOptions",
    "ProtocolOptions",
    "ReportOptions",
    "RunOptions",
    "TableOptions",
    "TransformOptions",
    "TuneOptions",
    "flags_of",
    "option",
]
