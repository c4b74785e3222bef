"""Seating: it gives a running request's mixes their seats, in pages of the bank or on merged weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from impasto_server.adapters.adapter import Adapter, Delta, Patch
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.residency import Named
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from impasto_server.guidance import Mix
from impasto_server.stats import Stats


class Seating:
    """Seats for mixes. A pinned mix needs no pages, and its adapters may be ones that no bank can carry."""

    def __init__(self, manifest: Manifest, bank: Bank, stats: Stats) -> None:
        self._manifest = manifest
        self._bank = bank
        self._stats = stats
        self._pinned = {
            Mix.of([(adapter.digest, adapter.weight) for adapter in mix.adapters]): number
            for number, mix in enumerate(manifest.pinned, 1)
        }

    def take(
        self, mixes: Collection[Mix], adapters: Mapping[str, Patch], styles: Sequence[Named], again: Callable[[], None]
    ) -> dict[Mix, Seat] | None:
        """A seat for each mix of `adapters` (by digest), which the request names as `styles`.

        None while the bank has too few pages, as Bank.take. Raises InvalidArgument, for the field that names the first
        adapter, where the bank can never hold them.
        """
        merged = {mix: Seat(merged=self._pinned[mix]) for mix in mixes if mix in self._pinned}
        hot = [mix for mix in mixes if mix not in merged]
        carried = _carried(hot, adapters, styles)
        try:
            pages = self._bank.take(hot, carried, again)
        except InvalidArgument as error:
            raise error.at(next(style.field for style in styles if style.digest in carried)) from None
        if pages is None:
            return None
        self._stats.add("mix_pinned", len(merged))
        return {mix: merged.get(mix) or Seat(pages[mix]) for mix in mixes}

    def leave(self, seats: Mapping[Mix, Seat]) -> None:
        """Give seats back; one call for each `take`."""
        self._bank.leave([mix for mix, seat in seats.items() if not seat.merged])

    def forget(self, again: Callable[[], None]) -> None:
        """End the wait of whoever asked with `again`."""
        self._bank.forget(again)

    def speaks(self, mix: Mix, adapters: Mapping[str, Patch]) -> bool:
        """Whether a mix changes the text encoders."""
        return self.changes(self._manifest.text_encoders, mix, adapters)

    def changes(self, graphs: Collection[str], mix: Mix, adapters: Mapping[str, Patch]) -> bool:
        """Whether a mix changes one of these graphs; True for a mix that can have no seat."""
        if mix in self._pinned:
            return not {*graphs}.isdisjoint(self._manifest.pinned[self._pinned[mix] - 1].graphs)
        parts = [adapters[digest] for digest, _ in mix.parts]
        return any(isinstance(part, Delta) or not {*graphs}.isdisjoint(part.factors) for part in parts)


def _carried(mixes: Collection[Mix], adapters: Mapping[str, Patch], styles: Sequence[Named]) -> dict[str, Adapter]:
    """Adapters by digest, at least those of `mixes`. Raises InvalidArgument for one of them that no bank can carry."""
    wanted = {digest for mix in mixes for digest, _ in mix.parts}
    named = [(one, adapters.get(one.digest)) for one in styles if one.digest in wanted]
    merged = [(one, delta) for one, delta in named if isinstance(delta, Delta)]
    if merged:
        style, first = merged[0]
        problem = f"{style.name!r} changes weights by {', '.join(first.forms)}, which only merged weights can carry"
        options = " ".join(f"--adapter {one.name}:{one.weight:g}" for one, _ in merged)
        fix = f"`impasto export merge BUNDLE {options} --out BUNDLE2`"
        raise InvalidArgument(
            style.field, problem, f"merge it into a bundle with {fix}, or add --pin to keep the base weights, too"
        )
    return {digest: adapter for digest, adapter in adapters.items() if isinstance(adapter, Adapter)}
