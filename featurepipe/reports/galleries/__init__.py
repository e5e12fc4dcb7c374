"""Galleries: what a page shows of single samples, and its sections."""

from featurepipe.reports.galleries.gallery import ALIKE, NONE, SHEET, Alike, Gallery

__all__ = ["ALIKE", "NONE", "SHEET", "Alike", "Gallery"]
