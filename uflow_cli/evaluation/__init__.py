"""How well a model does on labelled images, by the paper's measures (METHOD 5), all at 256 x 256 pixels."""

from uflow_cli.evaluation.measures import Evaluation, evaluation_to_dict
from uflow_cli.evaluation.run import EvaluatedImage, evaluate_images, evaluate_run

__all__ = ["EvaluatedImage", "Evaluation", "evaluate_images", "evaluate_run", "evaluation_to_dict"]
