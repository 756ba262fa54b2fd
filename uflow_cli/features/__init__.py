"""Frozen multi-scale features (docs/method.md, section 1). The only importer of timm."""

from uflow_cli.features.catalogue import (
    EXTRACTORS,
    ExtractorFacts,
    build_extractor,
    describe_extractor,
    extractor_spec,
    find_backbone,
    needed_weights,
)
from uflow_cli.features.extractor import (
    Extractor,
    ExtractorSpec,
    FeatureExtractor,
    check_input_size,
    choose_precision,
    stack_images,
    weights_digest,
)
from uflow_cli.features.normalisation import FeatureNormalisation

__all__ = [
    "EXTRACTORS",
    "Extractor",
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
    "needed_weights",
    "stack_images",
    "weights_digest",
]
