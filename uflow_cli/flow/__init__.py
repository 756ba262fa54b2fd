"""The U-shaped normalizing flow: an invertible map from features to embeddings. Logarithms here are natural."""

import warnings

with warnings.catch_warnings():  # of backslashes in docstrings of FrEIA 0.2, when Python compiles them
    warnings.filterwarnings("ignore", message=r".*invalid escape sequence")
    import FrEIA.modules  # noqa: F401

from uflow_cli.flow.graph import UFlow, state_from_published
from uflow_cli.flow.likelihood import bits_per_dimension, negative_log_likelihood
from uflow_cli.flow.step import FlowStep, coupling_subnet

__all__ = [
    "FlowStep",
    "UFlow",
    "bits_per_dimension",
    "coupling_subnet",
    "negative_log_likelihood",
    "state_from_published",
]
