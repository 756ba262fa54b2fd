"""Measures of detections, those of the paper and a few more. Scores: high = anomalous."""

from uflow_cli.metrics.overlap import IouSweep, MeanIou, OracleIou, iou, mean_iou, oracle_thresholds
from uflow_cli.metrics.pixels import AUPRO_MAX_FPR, PixelCurve, PixelScores
from uflow_cli.metrics.rates import Rate, auroc, bootstrap_intervals, clopper_pearson, rate, rates_by_kind

__all__ = [
    "AUPRO_MAX_FPR",
    "IouSweep",
    "MeanIou",
    "OracleIou",
    "PixelCurve",
    "PixelScores",
    "Rate",
    "auroc",
    "bootstrap_intervals",
    "clopper_pearson",
    "iou",
    "mean_iou",
    "oracle_thresholds",
    "rate",
    "rates_by_kind",
]
