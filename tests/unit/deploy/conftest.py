"""Ray Serve is imported here first: its own modules use what pydantic will drop, and warnings are errors in tests."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import ray.serve  # noqa: F401
