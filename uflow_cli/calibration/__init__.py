"""The promise on false alarms, from held-out good images only. Logarithms are base 10."""

from uflow_cli.calibration.fitting import (
    FUSED_TAILS,
    TailPrior,
    calibrate,
    cross_fitted_lowest,
    fit_background,
    fit_curve,
    fit_curves,
    fit_reference,
    kind_of_evidence,
    position_levels,
)
from uflow_cli.calibration.picture import calibration_chart
from uflow_cli.calibration.record import (
    MEAN_RATIO_RANGE,
    Calibration,
    Reference,
    choose_threshold,
    conformal_rank,
    threshold_for_rate,
)
from uflow_cli.calibration.suspects import suspicious_images

__all__ = [
    "FUSED_TAILS",
    "MEAN_RATIO_RANGE",
    "Calibration",
    "Reference",
    "TailPrior",
    "calibrate",
    "calibration_chart",
    "choose_threshold",
    "conformal_rank",
    "cross_fitted_lowest",
    "fit_background",
    "fit_curve",
    "fit_curves",
    "fit_reference",
    "kind_of_evidence",
    "position_levels",
    "suspicious_images",
    "threshold_for_rate",
]
