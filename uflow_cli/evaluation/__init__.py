"""Evaluation of a model on labelled images, by the paper's measures, all at 256 x 256 pixels."""

from uflow_cli.evaluation.measures import (
    ABSENT,
    Evaluation,
    NfaSweep,
    difference,
    evaluation_from_dict,
    evaluation_to_dict,
    share,
)
from uflow_cli.evaluation.published import category_groups, published_categories, published_figures, published_source
from uflow_cli.evaluation.run import evaluate_images, evaluate_run, fair_threshold, selection_note
from uflow_cli.evaluation.tally import EvaluatedImage, Tally

__all__ = [
    "ABSENT",
    "EvaluatedImage",
    "Evaluation",
    "NfaSweep",
    "Tally",
    "category_groups",
    "difference",
    "evaluate_images",
    "evaluate_run",
    "evaluation_from_dict",
    "evaluation_to_dict",
    "fair_threshold",
    "published_categories",
    "published_figures",
    "published_source",
    "selection_note",
    "share",
]
