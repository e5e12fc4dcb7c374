"""Feature matrices: ids, X, y, split and groups of one backbone in a store, aligned in manifest order."""

from featurepipe.matrices.exports import check_suffix, export, is_export
from featurepipe.matrices.features import FeatureMatrix, fill, from_rows, gather, load, outline, stream
from featurepipe.matrices.joins import join, lacking_notes
from featurepipe.matrices.parts import Parts, arrange, choose_splits, cut, labelled, sizes, with_copies
from featurepipe.matrices.tokens import TokenRows

__all__ = [
    "FeatureMatrix",
    "Parts",
    "TokenRows",
    "arrange",
    "check_suffix",
    "choose_splits",
    "cut",
    "export",
    "fill",
    "from_rows",
    "gather",
    "is_export",
    "join",
    "labelled",
    "lacking_notes",
    "load",
    "outline",
    "sizes",
    "stream",
    "with_copies",
]
