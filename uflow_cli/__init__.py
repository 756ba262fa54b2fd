"""uflow: find defects in images after seeing only good ones, and say how sure it is.

From Python: `load` gives the detector of a run, `train` makes a run; docs/python.md. What is imported is looked up when
it is asked for, so that `import uflow_cli` takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uflow_cli.api import load as load
    from uflow_cli.api import train as train
    from uflow_cli.detection.detector import Detection as Detection
    from uflow_cli.detection.prediction import Prediction as Prediction
    from uflow_cli.errors import ImageError as ImageError
    from uflow_cli.errors import UflowError as UflowError
    from uflow_cli.run.detector import TrainedDetector as TrainedDetector
    from uflow_cli.run.record import Run as Run

    __version__: str

__all__ = ["Detection", "ImageError", "Prediction", "Run", "TrainedDetector", "UflowError", "load", "train"]
_PLACES = {
    "Detection": "detection.detector",
    "ImageError": "errors",
    "Prediction": "detection.prediction",
    "Run": "run.record",
    "TrainedDetector": "run.detector",
    "UflowError": "errors",
    "load": "api",
    "train": "api",
}

if not TYPE_CHECKING:  # a type checker would take every name for one

    def __getattr__(name: str) -> Any:
        """What `name` stands for; the version too is looked up only then."""
        if name == "__version__":
            from importlib.metadata import version

            return version("uflow-cli")
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
