"""Synthetic products to try everything on, photographed: fabric, metal, labels and strips, with exact masks."""

from uflow_cli.sample.writing import CATEGORIES, KINDS, MARKER, sample_image, write_sample

__all__ = ["CATEGORIES", "KINDS", "MARKER", "sample_image", "write_sample"]
