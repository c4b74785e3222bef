"""calibration.json in a bundle: how many lanes a forward pass should have, as measured by `impasto calibrate`.

It isn't part of the bundle's digest, since it changes only the speed, not the images. Linking another checkpoint into
the folder removes it.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from impasto_server import atomic
from impasto_server.bundle import MAX_MANIFEST, Bundle
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import EngineName, Precision, Settings
from impasto_server.strangers import Unfit, read_file

log = logging.getLogger(__name__)

NAME = "calibration.json"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Timing(_Strict):
    """Times of forward passes of `lanes` rows, in milliseconds.

    `ms` is the median of passes after one of the same size, `fastest_ms` the fastest of them. `switch_ms` is the median
    of passes after one of another size, `first_ms` the very first of this size.
    """

    lanes: int = Field(gt=0)
    ms: float = Field(gt=0)
    fastest_ms: float = Field(gt=0)
    switch_ms: float = Field(gt=0)
    first_ms: float = Field(gt=0)

    @property
    def lanes_per_second(self) -> float:
        return 1000 * self.lanes / self.ms


class Measured(_Strict):
    """What was measured for one engine, precision and thread count. `cpu` is the CPU's or GPU's name, `latents` a
    sample's shape.
    """

    engine: EngineName
    precision: Precision
    threads: int = Field(gt=0)
    max_lanes: int = Field(gt=0)
    latents: tuple[int, ...]
    cpu: str
    bundle: str
    version: str
    points: tuple[Timing, ...]

    @property
    def key(self) -> tuple[EngineName, Precision, int]:
        return self.engine, self.precision, self.threads

    @model_validator(mode="after")
    def _is_one_of_its_points(self) -> Measured:
        if self.max_lanes not in [point.lanes for point in self.points]:
            raise ValueError(f"max_lanes {self.max_lanes} was never timed")
        return self


class Calibration(_Strict):
    """The content of the file."""

    format: Literal[1] = 1
    entries: tuple[Measured, ...] = ()

    @classmethod
    def read(cls, bundle: Bundle) -> Calibration:
        """The calibration of `bundle`; empty when it was never calibrated.

        Raises SetupError when the file is malformed, or was measured on another bundle.
        """
        path = bundle.folder / NAME
        try:
            calibration = cls.model_validate_json(read_file(path, MAX_MANIFEST))
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise _unusable(bundle, error.strerror or str(error)) from None
        except Unfit as error:
            raise _unusable(bundle, f"it {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _unusable(bundle, f"{where}: {first['msg']}" if where else first["msg"]) from None
        strangers = [entry.bundle for entry in calibration.entries if entry.bundle != bundle.manifest.digest]
        if strangers:
            raise _unusable(bundle, f"it was measured on another bundle, {strangers[0][:12]}")
        return calibration

    def find(self, engine: EngineName, precision: Precision, threads: int) -> Measured | None:
        """The entry for an engine, a resolved precision (not "auto") and a number of threads (not 0)."""
        return next((entry for entry in self.entries if entry.key == (engine, precision, threads)), None)

    @model_validator(mode="after")
    def _has_one_entry_for_each_key(self) -> Calibration:
        keys = [entry.key for entry in self.entries]
        if len(set(keys)) < len(keys):
            raise ValueError("two entries for the same engine, precision and threads")
        return self


def keep(bundle: Bundle, measured: Measured) -> Path:
    """Write `measured` into the bundle, replacing the entry with its key; returns the file.

    A file that can't be used is replaced, with a warning in the log. Raises OSError when the folder can't be written.
    """
    try:
        known = Calibration.read(bundle).entries
    except SetupError as error:
        log.warning("replaced: %s", error)
        known = ()
    entries = [entry for entry in known if entry.key != measured.key]
    calibration = Calibration(entries=tuple(sorted([*entries, measured], key=lambda entry: entry.key)))
    path = bundle.folder / NAME
    atomic.write(path, (calibration.model_dump_json(indent=2) + "\n").encode())
    return path


def runtime_for(settings: Settings, bundle: Bundle) -> Runtime:
    """The runtime of these settings; its `max_lanes` is as set, else as calibrated, else the default.

    The log says which. Raises SetupError as Runtime.of, and when calibration.json can't be used.
    """
    runtime = Runtime.of(settings).knowing(bundle.manifest)
    measured = calibrated(runtime, bundle)
    if settings.max_lanes:
        log.info("max_lanes %d, as set", settings.max_lanes)
        return runtime
    if measured is None:
        log.info("max_lanes %d, the default", runtime.max_lanes)
        return runtime
    log.info("max_lanes %d, as calibrated", measured.max_lanes)
    return replace(runtime, max_lanes=measured.max_lanes)


def calibrated(runtime: Runtime, bundle: Bundle) -> Measured | None:
    """What was measured for this engine, precision and thread count; None if nothing was.

    A calibration from another CPU is used, with a warning: it is of the same backbone, and changes only the speed, not
    the images. Raises SetupError when calibration.json can't be used.
    """
    key = runtime.engine, runtime.precision, runtime.threads
    found = Calibration.read(bundle).find(*key)
    command = _command(bundle, *key)
    if found is None:
        log.info("not calibrated for {} {} on {} threads; measure with `%s`".format(*key), command)
    elif found.cpu != runtime.device_name:
        words = "calibrated on another %s, %s; this one is %s; measure here with `%s`"
        log.warning(words, "CPU" if runtime.gpu is None else "GPU", found.cpu, runtime.device_name, command)
    return found


def _unusable(bundle: Bundle, why: str) -> SetupError:
    return SetupError(
        f"bundle: {bundle.folder / NAME}: {why}; measure again with `impasto calibrate --bundle {bundle.folder}`"
    )


def _command(bundle: Bundle, engine: str, precision: str, threads: int) -> str:
    words = ["--bundle", str(bundle.folder), "--engine", engine, "--precision", precision, "--threads", str(threads)]
    return shlex.join(["impasto", "calibrate", *words])
