"""Frozen multi-scale features (METHOD 1: the first quarter of the road). The only importer of timm."""

from uflow_cli.features.catalogue import (
    EXTRACTORS,
    ExtractorFacts,
    build_extractor,
    describe_extractor,
    extractor_spec,
    find_backbone,
)
from uflow_cli.features.extractor import FeatureExtractor, stack_images, weights_digest
from uflow_cli.features.normalisation import FeatureNormalisation
from uflow_cli.features.precision import choose_precision
from uflow_cli.features.spec import ExtractorSpec, check_input_size

__all__ = [
    "EXTRACTORS",
    "ExtractorFacts",
    "ExtractorSpec",
    "FeatureExtractor",
    "FeatureNormalisation",
    "build_extractor",
    "check_input_size",
    "choose_precision",
    "describe_extractor",
    "extractor_spec",
    "find_backbone",
    "stack_images",
    "weights_digest",
]
