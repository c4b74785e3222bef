"""The errors of fits; str() is meant for the user.

::

    FitError
    ├── PictureError     a picture, or their number, is nothing to learn from
    ├── WordsError       the words don't go with the recipe, or with the pictures
    ├── CheckpointError  the checkpoint is none that the recipe can train on
    ├── StateError       what was kept of an earlier run is damaged, or of another fit
    ├── Diverged         the loss is no number any more
    ├── Cancelled        who watches asked for that
    └── JobError         a job is refused, unknown or damaged
"""

from __future__ import annotations


class FitError(Exception):
    """The base class."""


class PictureError(FitError):
    """Names the picture by its place, from 1."""


class WordsError(FitError):
    """Names the field of `Words`."""


class CheckpointError(FitError):
    """The folder is missing, or its architecture is unknown to the recipe."""


class StateError(FitError):
    """Begin anew, or resume the fit that it belongs to."""


class Diverged(FitError):
    """The loss became NaN or infinite; there is no adapter."""


class Cancelled(FitError):
    """There is no adapter; what was kept may be resumed."""


class JobError(FitError):
    """Names the field, the job or the file."""
