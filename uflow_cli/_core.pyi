"""
Native core of uflow; call it through uflow_cli.detection.nfa.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing

__all__: list[str] = [
    "chi2_log_tail",
    "find_regions",
    "fuse_evidence",
    "log_n_tests",
    "log_n_tests_by_size",
    "max_tree",
]

def chi2_log_tail(
    x: numpy.typing.NDArray[numpy.float64],
    degrees_of_freedom: typing.SupportsFloat | typing.SupportsIndex,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    tail: str,
) -> numpy.typing.NDArray[numpy.float64]:
    """
    log10 of the bound of the tail of scale * chi2 at each x (n,).
    """

def find_regions(
    squared_norms: list[numpy.typing.NDArray[numpy.float32]],
    degrees_of_freedom: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    scales: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    tests: str,
    tail: str,
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[list[numpy.typing.NDArray[numpy.int32]], tuple[numpy.ndarray, ...]]:
    """
    Label maps and the columns of the region table, of squared norms (B, H_s, W_s) per scale.
    """

def fuse_evidence(
    squared_norms: list[numpy.typing.NDArray[numpy.float32]],
    degrees_of_freedom: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    scales: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    weights: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    Evidence (B, H, W) on the finest grid, of squared norms (B, H_s, W_s) per source.
    """

def log_n_tests(cells: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> float:
    """
    log10 N_T of grids of so many cells (paper eq. 9).
    """

def log_n_tests_by_size(
    cells: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    area: numpy.typing.NDArray[numpy.float64],
) -> numpy.typing.NDArray[numpy.float64]:
    """
    log10 N_T(n) for each area n (n,), of grids of so many cells.
    """

def max_tree(
    score: numpy.typing.NDArray[numpy.float32],
) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32]]:
    """
    Max-tree of `score` (H, W): parent, order and area, each (H*W,).
    """
