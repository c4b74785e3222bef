"""Where a fitted adapter comes from: the entry that impasto_fit writes into its files is handed on."""

from __future__ import annotations

from collections.abc import Mapping

from impasto_export.architecture import Json, parse_json
from impasto_export.errors import AdapterError

KEY = "impasto_fit"


def facts(what: str, metadata: Mapping[str, str]) -> Json:
    """{"fit": recipe, constants, digests of pictures and checkpoint}; {} of a file that wasn't fitted.

    Raises AdapterError for an entry that is no JSON object.
    """
    text = metadata.get(KEY)
    if text is None:
        return {}
    try:
        entry = parse_json(text)
    except ValueError as error:
        raise AdapterError(f"{what}: {KEY} in its header is not JSON ({error}); fit it again") from None
    if not isinstance(entry, dict):
        raise AdapterError(f"{what}: {KEY} in its header is not a JSON object; fit it again")
    return {"fit": entry}
