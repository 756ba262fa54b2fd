"""Inspect what comes into a folder: what has come (`arrivals`), what is done with it, and what then is to be done."""

from uflow_cli.watch.arrivals import arrivals
from uflow_cli.watch.errands import Command, Errand, Errands, Webhook, command_of, webhook_of
from uflow_cli.watch.inspector import Watched, number_of, watch_folder

__all__ = [
    "Command",
    "Errand",
    "Errands",
    "Watched",
    "Webhook",
    "arrivals",
    "command_of",
    "number_of",
    "watch_folder",
    "webhook_of",
]
