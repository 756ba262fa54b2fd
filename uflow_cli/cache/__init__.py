"""Features computed once and kept for every later run: as float16, memory-mapped, found by what they were made of."""

from uflow_cli.cache.extraction import features_of, load_features
from uflow_cli.cache.folder import GIB, CacheFolder, Summary, default_folder, summarise
from uflow_cli.cache.shelf import Shelf
from uflow_cli.cache.sources import Source, survey_images, with_views
from uflow_cli.cache.store import ComputedFeatures, FeatureStore, KeptFeatures, ResidentFeatures

__all__ = [
    "GIB",
    "CacheFolder",
    "ComputedFeatures",
    "FeatureStore",
    "KeptFeatures",
    "ResidentFeatures",
    "Shelf",
    "Source",
    "Summary",
    "default_folder",
    "features_of",
    "load_features",
    "summarise",
    "survey_images",
    "with_views",
]
