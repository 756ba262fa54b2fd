"""How good detections are, in the numbers of the paper (METHOD 5) and a few more. Scores: high = anomalous."""

from uflow_cli.metrics.overlap import IouSweep, MeanIou, OracleIou, iou, mean_iou, oracle_miou, oracle_thresholds
from uflow_cli.metrics.pixels import AUPRO_MAX_FPR, PixelCurve, PixelScores, pixel_curve
from uflow_cli.metrics.rates import (
    Rate,
    auroc,
    average_precision,
    bootstrap_interval,
    clopper_pearson,
    rate,
    rates_by_kind,
)
from uflow_cli.metrics.resampling import BinnedPixels

__all__ = [
    "AUPRO_MAX_FPR",
    "BinnedPixels",
    "IouSweep",
    "MeanIou",
    "OracleIou",
    "PixelCurve",
    "PixelScores",
    "Rate",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "clopper_pearson",
    "iou",
    "mean_iou",
    "oracle_miou",
    "oracle_thresholds",
    "pixel_curve",
    "rate",
    "rates_by_kind",
]
