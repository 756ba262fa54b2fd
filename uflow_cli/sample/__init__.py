"""A synthetic product to try everything on: photographs of woven fabric, good and defective, with exact masks."""

from uflow_cli.sample.writing import CATEGORIES, KINDS, MARKER, sample_image, write_sample

__all__ = ["CATEGORIES", "KINDS", "MARKER", "sample_image", "write_sample"]
