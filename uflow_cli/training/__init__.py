"""Training of the flow on good images only. Losses are negative log-likelihoods in bits per dimension."""

from uflow_cli.training.criterion import Criterion, HeldOutLoss
from uflow_cli.training.engine import TrainingResult, train
from uflow_cli.training.held_out import calibrate
from uflow_cli.training.log import Epoch, Observer, write_curve, write_log
from uflow_cli.training.schedule import rate_factor
from uflow_cli.training.split import Split, batched, check_images, split_images

__all__ = [
    "Criterion",
    "Epoch",
    "HeldOutLoss",
    "Observer",
    "Split",
    "TrainingResult",
    "batched",
    "calibrate",
    "check_images",
    "rate_factor",
    "split_images",
    "train",
    "write_curve",
    "write_log",
]
