"""Python's logging, forwarded to Triton's log."""

from __future__ import annotations

import logging

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


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
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
