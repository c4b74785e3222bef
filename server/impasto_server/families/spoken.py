"""Words as conditions: the lanes' texts become embeds, for every family that has text encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.families.family import Parts
from impasto_server.guidance import Guidance, Lane, Mix, Text
from impasto_server.request import Request
from impasto_server.turns import Work
from impasto_server.words.embeds import Embeds
from impasto_server.words.encoder import PromptEncoder
from impasto_server.words.prompt import Line, Staged, check_lines, lines
from impasto_server.worn import Worn


@dataclass(frozen=True)
class Voice:
    """What a lane says at each stage of the denoising, under a mix that changes text encoders (None: under none)."""

    lines: tuple[Line, ...]
    mix: Mix | None


@dataclass(frozen=True)
class Spoken:
    """The conditions of a family with words: the `voices` of each stage's lanes. `context` makes a lane's context from
    its embeds.
    """

    prompts: PromptEncoder
    worn: Worn
    guidance: Mapping[str, Guidance]
    voices: Mapping[str, tuple[Voice, ...]]
    warnings: tuple[str, ...]
    context: Callable[[Staged], Any]
    told: Mapping[str, object] = field(default_factory=dict)
    embeds: dict[tuple[Line, Mix | None], Embeds] = field(default_factory=dict)

    def gather(self) -> Work[None]:
        yield from self._encode(None, Seat())

    def contexts(self, seats: Mapping[Mix, Seat]) -> Work[Mapping[str, Sequence[Any]]]:
        for mix, seat in seats.items():
            yield from self._encode(mix, seat)
        return {
            stage: tuple(self.context(self._staged(voice)) for voice in voices) for stage, voices in self.voices.items()
        }

    def _staged(self, voice: Voice) -> Staged:
        return Staged(tuple(self.embeds[line, voice.mix] for line in voice.lines))

    def _encode(self, mix: Mix | None, seat: Seat) -> Work[None]:
        """Encode what is said under `mix`, one line a turn; cached lines take no turn."""
        missing = self._missing(mix)
        for done, line in enumerate(missing):
            yield len(missing) - done
            self.embeds[line, mix] = self.prompts.encode(line, self.worn.embeddings, seat, mix)

    def _missing(self, mix: Mix | None) -> list[Line]:
        """The lines under `mix` still to be encoded; cached ones are added to `embeds`."""
        voices = chain.from_iterable(self.voices.values())
        wanted = dict.fromkeys(line for voice in voices if voice.mix == mix for line in voice.lines)
        for line in wanted:
            known = self.embeds.get((line, mix)) or self.prompts.known(line, mix)
            if known is not None:
                self.embeds[line, mix] = known
        return [line for line in wanted if (line, mix) not in self.embeds]


class Speech:
    """The text encoders of a family's bundle, and the conditions that they make of requests."""

    def __init__(self, parts: Parts) -> None:
        self.prompts = PromptEncoder.of(parts.bundle, parts.graphs, parts.host_bytes)
        self._seating = parts.seating

    def blank(self) -> Staged:
        """The embeds of an empty text."""
        return Staged((self.prompts.encode(Line(""), {}, Seat(), None),))

    def of(
        self, request: Request, worn: Worn, guidance: Mapping[str, Guidance], context: Callable[[Staged], Any]
    ) -> Work[Spoken]:
        """The conditions of a request. Raises InvalidArgument for too many different lines."""
        texts = [lane.text for one in guidance.values() for lane in one.lanes]
        check_lines(texts, worn.embeddings, worn.field_of_most_stages)
        warnings = yield from self._unread(request, worn, texts)
        voices = {stage: tuple(self._voice(lane, worn) for lane in one.lanes) for stage, one in guidance.items()}
        return Spoken(self.prompts, worn, guidance, voices, warnings, context)

    def _voice(self, lane: Lane, worn: Worn) -> Voice:
        return Voice(lines(lane.text, worn.embeddings), self._under(lane.mix, worn))

    def _under(self, mix: Mix, worn: Worn) -> Mix | None:
        return mix if self._seating.speaks(mix, worn.adapters) else None

    def _unread(self, request: Request, worn: Worn, said: Iterable[Text]) -> Work[tuple[str, ...]]:
        """Warnings for texts that are too long to be read whole. Long texts take a while, so each has a turn."""

        def field_of(text: Text) -> str:
            if text == worn.words.null:
                return "NEGATIVE_PROMPT"
            return (
                "CONTENT_PROMPT"
                if request.styles.content_prompt is not None and text == worn.words.context
                else "PROMPT"
            )

        texts = dict.fromkeys((words, field_of(text)) for text in said for words in text.stages)
        found: dict[str, None] = {}
        for done, (words, named) in enumerate(texts):
            if done:
                yield len(texts) - done
            found |= dict.fromkeys(self.prompts.unread(words, worn.embeddings, named))
        return tuple(found)


def hidden(embeds: Iterable[Embeds]) -> NDArray[np.float32]:
    """The tokens' features, [rows, T, D]."""
    return np.stack([one.hidden for one in embeds])


def pooled(embeds: Iterable[Embeds]) -> NDArray[np.float32]:
    """The pooled features, [rows, P]."""
    return np.stack([one.pooled for one in embeds if one.pooled is not None])
