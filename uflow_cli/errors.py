"""Errors that a user can fix. `cli.main()` prints them as one line and exits with 1."""


class UflowError(Exception):
    """Something the user can fix; the message says what was wrong, its value, and what would be right."""


class NoRoomError(UflowError):
    """A disk is full or may only be read: whatever comes next cannot be written either."""


class ImageError(UflowError):
    """An image or mask file is missing, unreadable, truncated, or of an unsupported kind."""


class DatasetError(UflowError):
    """A data set folder is missing, empty, or not laid out as its format says."""


class CheckpointError(UflowError):
    """A run folder is missing, incomplete, damaged, or of a newer format."""


class WeightsError(UflowError):
    """The weights of a feature extractor cannot be found or do not fit."""


class TrainingError(UflowError):
    """Training cannot start or go on."""


class ExportError(UflowError):
    """A run has no graph, or one that computes something else."""
