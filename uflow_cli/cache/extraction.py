"""From images to a store of their features, most of which may be at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from uflow_cli.cache.ahead import done_ahead
from uflow_cli.cache.folder import CacheFolder
from uflow_cli.cache.settings import record_layout
from uflow_cli.cache.shelf import Place, Shelf
from uflow_cli.cache.sources import Source, survey_images
from uflow_cli.cache.store import EXTRACTION_BATCH, ComputedFeatures, FeatureStore, KeptFeatures, extract_records
from uflow_cli.model import Model


def features_of(
    model: Model, paths: Sequence[Path], *, cache: CacheFolder | None, on_progress: Callable[[int, int], None]
) -> FeatureStore:
    """Features of the images at `paths`, from `cache` where it has them; see `load_features`."""
    shelf = Shelf(cache, model) if cache else None
    sources = survey_images(paths, known=shelf, on_progress=lambda _done, _total: None)
    return load_features(model, lambda _epoch: sources, shelf=shelf, on_progress=on_progress)


def load_features(
    model: Model,
    sources_of: Callable[[int], Sequence[Source]],
    *,
    shelf: Shelf | None,
    on_progress: Callable[[int, int], None],
) -> FeatureStore:
    """Features of the images `sources_of(0)`, in this order.

    With a `shelf` they are taken from it, and those that it lacks are computed and added; `on_progress(done, total)` is
    called first with what was at hand, then after each batch. Without, they are computed whenever they are read, and
    `sources_of(epoch)` may show other views in each epoch. Raises ImageError, and UflowError for a full disk.
    """
    if shelf is None:
        return ComputedFeatures(model, record_layout(model), sources_of)
    sources = sources_of(0)
    keys = [source.key for source in sources]
    different = list(dict.fromkeys(keys))
    found = zip(different, shelf.find(different), strict=True)
    places: dict[bytes, Place] = {key: place for key, place in found if place is not None}
    missing = {key: source for key, source in zip(keys, sources, strict=True) if key not in places}
    done = sum(key in places for key in keys)
    on_progress(done, len(keys))
    shelf.expect(len(missing))
    side = model.config.input_size
    pixels = done_ahead(lambda source: source.pixels(side), missing.values(), ahead=2 * EXTRACTION_BATCH)
    new = list(missing)
    for start in range(0, len(new), EXTRACTION_BATCH):
        batch = new[start : start + EXTRACTION_BATCH]
        records = extract_records(model, [next(pixels) for _ in batch], shelf.layout)
        places.update(zip(batch, shelf.add(batch, records), strict=True))
        done += len(batch)
        on_progress(done, len(keys))
    if done < len(keys):
        on_progress(len(keys), len(keys))  # an image that comes twice was computed once
    return KeptFeatures([places[key] for key in keys], shelf.layout)
