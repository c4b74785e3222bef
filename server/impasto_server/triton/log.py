"""What a model's process says: Python's logging, forwarded to Triton's log, and where it was when it crashed."""

from __future__ import annotations

import faulthandler
import logging

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

STDERR = 2


class TritonHandler(logging.Handler):
    """Writes records to Triton's log at the corresponding level."""

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        if record.levelno >= logging.ERROR:
            pb_utils.Logger.log_error(message)
        elif record.levelno >= logging.WARNING:
            pb_utils.Logger.log_warn(message)
        else:
            pb_utils.Logger.log_info(message)


def forward_log() -> None:
    """Send what this process logs at INFO and above to Triton's log."""
    handler = TritonHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    faulthandler.enable(STDERR, all_threads=False)  # so the log ends with where a segmentation fault was
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
