"""Whether the promise on false alarms still holds where a model is used."""

from uflow_cli.check.drift import ScaleDrift, likely_cause, measure_drift
from uflow_cli.check.judgement import Judgement, Verdict, judge_count, judge_rate, worst
from uflow_cli.check.run import Audit, audit_run, audit_to_dict

__all__ = [
    "Audit",
    "Judgement",
    "ScaleDrift",
    "Verdict",
    "audit_run",
    "audit_to_dict",
    "judge_count",
    "judge_rate",
    "likely_cause",
    "measure_drift",
    "worst",
]
