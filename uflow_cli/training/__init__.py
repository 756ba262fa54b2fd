"""Training of the flow on good images only. Losses are negative log-likelihoods in bits per dimension."""

from uflow_cli.training.criterion import Criterion, HeldOutLoss, TestSetAuroc, criterion_of
from uflow_cli.training.engine import resume, split_images, train
from uflow_cli.training.observer import Observer, Silent, TensorBoardLog, Together, require_tensorboard
from uflow_cli.training.processes import OtherRankError, is_rank_zero
from uflow_cli.training.product import train_product

__all__ = [
    "Criterion",
    "HeldOutLoss",
    "Observer",
    "OtherRankError",
    "Silent",
    "TensorBoardLog",
    "TestSetAuroc",
    "Together",
    "criterion_of",
    "is_rank_zero",
    "require_tensorboard",
    "resume",
    "split_images",
    "train",
    "train_product",
]
