"""The promise on false alarms, from held-out good images only (METHOD 7.2, 7.3). Logarithms are base 10."""

from uflow_cli.calibration.background import fit_background
from uflow_cli.calibration.calibration import (
    FALSE_BELOW,
    MEAN_RATIO_RANGE,
    Calibration,
    calibration_from_dict,
    calibration_to_dict,
)
from uflow_cli.calibration.false_alarms import (
    FalseAlarmCurve,
    cross_fitted_lowest,
    cross_fitted_regions,
    fit_curve,
    fit_curves,
    lowest_log_nfa,
    recalibrate,
    with_recalibrated_nfa,
)
from uflow_cli.calibration.picture import calibration_chart
from uflow_cli.calibration.promise import choose_threshold, conformal_rank, threshold_for_rate
from uflow_cli.calibration.reference import PROBABILITIES, Reference, fit_reference, position_levels

__all__ = [
    "FALSE_BELOW",
    "MEAN_RATIO_RANGE",
    "PROBABILITIES",
    "Calibration",
    "FalseAlarmCurve",
    "Reference",
    "calibration_chart",
    "calibration_from_dict",
    "calibration_to_dict",
    "choose_threshold",
    "conformal_rank",
    "cross_fitted_lowest",
    "cross_fitted_regions",
    "fit_background",
    "fit_curve",
    "fit_curves",
    "fit_reference",
    "lowest_log_nfa",
    "position_levels",
    "recalibrate",
    "threshold_for_rate",
    "with_recalibrated_nfa",
]
