"""uflow: find defects in images after seeing only good ones, and say how sure it is."""

from importlib.metadata import version as _version

__version__ = _version("uflow-cli")
