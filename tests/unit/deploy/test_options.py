"""The application's options: from a command line or a file, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from impasto_deploy.ray.options import BadOption, Options

LEAST = {"bundle": "bundles/toy", "registry": "registry"}


def test_texts_and_a_files_values_are_the_same() -> None:
    typed = Options.of({**LEAST, "replicas": "2", "pin": "true", "grace_s": "5", "serve": "--engine onnxruntime"})
    filed = Options.of(
        {**LEAST, "bundle": ["bundles/toy"], "replicas": 2, "pin": True, "grace_s": 5, "serve": "--engine onnxruntime"}
    )
    assert typed == filed


def test_what_each_server_is_started_with() -> None:
    """Folders are absolute: Ray's workers have working directories of their own."""
    options = Options.of({**LEAST, "bundle": "words=a, photo=/b", "requests": 8, "serve": "--engine onnxruntime"})
    assert options.serving == (
        *("--bundle", f"words={Path.cwd() / 'a'}", "--bundle", "photo=/b", "--registry", str(Path.cwd() / "registry")),
        *("--max-requests", "8", "--engine", "onnxruntime"),
    )


def test_a_registry_in_a_store_is_passed_on_as_it_is() -> None:
    assert "s3://styles/registry" in Options.of({**LEAST, "registry": "s3://styles/registry"}).serving


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"bundle": "a"}, "registry: it is missing; pass registry=DIR"),
        ({**LEAST, "replica": 2}, "replica: there is no such option; did you mean replicas?"),
        ({**LEAST, "xyz": 2}, "xyz: there is no such option; choose from bundle, registry"),
        ({**LEAST, "replicas": "two"}, "replicas: 'two' is no whole number; pass one"),
        ({**LEAST, "replicas": 1.5}, "replicas: 1.5 is no whole number; pass one"),
        ({**LEAST, "replicas": True}, "replicas: True is no whole number; pass one"),
        ({**LEAST, "replicas": 0}, "replicas: 0 is too little; pass 1 or more"),
        ({**LEAST, "timeout_s": "nan"}, "timeout_s: 'nan' is too little; pass 0.1 or more"),
        ({**LEAST, "pin": "yes"}, "pin: 'yes' is no true or false; pass one"),
        ({**LEAST, "bundle": "a,,b"}, "bundle: 'a,,b' is no folder; pass one"),
        ({**LEAST, "replicas": 3, "max_replicas": 2}, "max_replicas: 2 is less than replicas, 3; pass more, or 0"),
        ({**LEAST, "write_s": 2}, "write_s: 2 is more than fetch_s, 1; pass less"),
        ({**LEAST, "surge": 101}, "surge: 101 is too much; pass 100 or less"),
        ({**LEAST, "serve": "--engine 'x"}, "serve: No closing quotation"),
    ],
)
def test_a_bad_option_is_named_with_what_to_do(said: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption) as caught:
        Options.of(said)
    assert str(caught.value).startswith(message)
