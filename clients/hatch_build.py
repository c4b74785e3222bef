"""Has wheels and source distributions record the commit that they are built from."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = {"wheel": "impasto_client", "sdist": "clients/impasto_client"}  # where each has the client


class Commit(BuildHookInterface[Any]):
    """Adds the client's commit.txt. A source distribution brings one, which a wheel made of it takes over."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before files are gathered; `version` is "standard" or "editable"."""
        client = Path(self.root, PACKAGES["sdist"])
        asked = runpy.run_path(str(client / "commit.py"))
        if version == "editable" or (client / asked["RECORD"]).exists():  # what is editable asks git when it runs
            return
        found = asked["of_checkout"](Path(self.root))
        if found is not None:
            self._folder = tempfile.TemporaryDirectory()
            record = Path(self._folder.name, asked["RECORD"])
            record.write_text(f"{found}\n")
            build_data["force_include"][str(record)] = f"{PACKAGES[self.target_name]}/{record.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when all is written."""
        if self._folder is not None:
            self._folder.cleanup()
