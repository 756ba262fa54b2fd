"""Training of the flow on good images only. Losses are negative log-likelihoods in bits per dimension."""

from uflow_cli.run.lock import is_training
from uflow_cli.training.criterion import Criterion, HeldOutLoss
from uflow_cli.training.engine import resume, train
from uflow_cli.training.log import Epoch, Observer, Silent, write_curve, write_log
from uflow_cli.training.outcome import TrainingResult
from uflow_cli.training.processes import ToldElsewhereError, is_first_process
from uflow_cli.training.published import TestSetAuroc, criterion_of
from uflow_cli.training.schedule import rate_factor
from uflow_cli.training.split import Split, batched, split_images
from uflow_cli.training.state import has_state, read_state
from uflow_cli.training.tensorboard import TensorBoardLog, Together, require_tensorboard

__all__ = [
    "Criterion",
    "Epoch",
    "HeldOutLoss",
    "Observer",
    "Silent",
    "Split",
    "TensorBoardLog",
    "TestSetAuroc",
    "Together",
    "ToldElsewhereError",
    "TrainingResult",
    "batched",
    "criterion_of",
    "has_state",
    "is_first_process",
    "is_training",
    "rate_factor",
    "read_state",
    "require_tensorboard",
    "resume",
    "split_images",
    "train",
    "write_curve",
    "write_log",
]
