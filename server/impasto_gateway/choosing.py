"""Which bundle paints, and maybe which adapter, by the field `model`: BUNDLE, BUNDLE:ADAPTER, or ADAPTER alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from impasto_client.catalogue import Adapter, Bundle, Catalogue
from impasto_gateway.errors import SERVER, Refusal, wrong

# Names that SDKs and tools hard-code.
FOREIGN = re.compile(r"(gpt-image-|chatgpt-image-|dall-e-).*")


@dataclass(frozen=True)
class Choice:
    """The bundle, and the adapter if one was named."""

    bundle: Bundle
    adapter: Adapter | None = None
    warnings: tuple[str, ...] = ()


def choice_of(model: object, catalogue: Catalogue) -> Choice:
    """None, and names of models that others have, mean the default bundle. Raises Refusal for an unknown name."""
    bundles = {bundle.name: bundle for bundle in catalogue.bundles}
    if catalogue.default not in bundles:
        raise Refusal(503, "the server has no bundle", "unavailable", kind=SERVER, again=True, retry_after_s=1.0)
    usual = bundles[catalogue.default]
    if model is None:
        return Choice(usual)
    if not isinstance(model, str):
        raise wrong("model", f"{str(model)[:64]!r} is not a name; send a text")
    if model in bundles:
        return Choice(bundles[model])
    name, colon, adapter = model.partition(":")
    found = next((one for one in catalogue.adapters if one.name == (adapter if colon else model)), None)
    if found is not None and colon and name in bundles:
        return Choice(bundles[name], found)
    if found is not None and not colon and (wearer := _wearer(found, usual, bundles)) is not None:
        return Choice(wearer, found)
    if FOREIGN.fullmatch(model):
        return Choice(usual, warnings=(f"model: {model[:64]!r} is not here; {usual.name!r} painted",))
    raise _unknown(model, catalogue)


def _wearer(adapter: Adapter, usual: Bundle, bundles: Mapping[str, Bundle]) -> Bundle | None:
    """The bundle for an adapter that is named alone, as routers know it: the default one if it fits that, else the only
    one that it fits. None where there are several."""
    fits = [bundles[name] for name in adapter.fits if name in bundles]
    return usual if usual in fits else fits[0] if len(fits) == 1 else None


def _unknown(model: str, catalogue: Catalogue) -> Refusal:
    known = [bundle.name for bundle in catalogue.bundles]
    known += [f"{bundle}:{adapter.name}" for adapter in catalogue.adapters[:1000] for bundle in adapter.fits]
    near = difflib.get_close_matches(model[:128], known, 1)
    fix = f"did you mean {near[0]!r}?" if near else f"send {catalogue.default!r}, or see GET /v1/models"
    return Refusal(404, f"model: there is no {model[:64]!r}; {fix}", "model_not_found", "model")
