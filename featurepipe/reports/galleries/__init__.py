"""Galleries: what a page shows of single samples, and its sections."""

from featurepipe.reports.galleries.gallery import NONE, SHEET, Gallery

__all__ = ["NONE", "SHEET", "Gallery"]
