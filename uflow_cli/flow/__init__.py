"""The U-shaped normalizing flow: an invertible map from features to embeddings. Logarithms here are natural."""

from uflow_cli.flow.loss import bits_per_dimension, negative_log_likelihood
from uflow_cli.flow.network import UFlow
from uflow_cli.flow.step import FlowStep, coupling_subnet

__all__ = ["FlowStep", "UFlow", "bits_per_dimension", "coupling_subnet", "negative_log_likelihood"]
