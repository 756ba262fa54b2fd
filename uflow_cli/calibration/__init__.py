"""The promise on false alarms, from held-out good images only (METHOD 7.2, 7.3). Logarithms are base 10."""

from uflow_cli.calibration.background import fit_background
from uflow_cli.calibration.calibration import Calibration, calibration_from_dict, calibration_to_dict
from uflow_cli.calibration.false_alarms import (
    FalseAlarmCurve,
    cross_fitted_lowest,
    fit_curve,
    fit_curves,
    lowest_log_nfa,
    recalibrate,
    with_recalibrated_nfa,
)
from uflow_cli.calibration.promise import choose_threshold, threshold_for_rate

__all__ = [
    "Calibration",
    "FalseAlarmCurve",
    "calibration_from_dict",
    "calibration_to_dict",
    "choose_threshold",
    "cross_fitted_lowest",
    "fit_background",
    "fit_curve",
    "fit_curves",
    "lowest_log_nfa",
    "recalibrate",
    "threshold_for_rate",
    "with_recalibrated_nfa",
]
