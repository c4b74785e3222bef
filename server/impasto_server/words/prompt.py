"""Prompts: the texts of the lanes, and the lines that are encoded for them.

A word in angle brackets, `<name>`, is a trigger: the vectors of the embedding with that name take its place. An
embedding with several stages makes a prompt another one at each stage; each is encoded once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm

from impasto_server.adapters.adapter import TRIGGER, Embedding
from impasto_server.errors import InvalidArgument
from impasto_server.guidance import Prompts, Text
from impasto_server.words.embeds import Embeds

MAX_COMMON_STAGES = 4096  # least common multiple of the stage counts in one lane's text: any two (64 · 63) are allowed
MAX_LINES = 256  # of a request; every one is encoded and kept


def triggers(text: str) -> list[str]:
    """The names between angle brackets, in order."""
    return TRIGGER.findall(text)


def pieces(text: str) -> Iterator[tuple[int, str, str | None]]:
    """The text in pieces: where each begins, its words, and its name if it is a trigger."""
    end = 0
    for match in TRIGGER.finditer(text):
        yield end, text[end : match.start()], None
        yield match.start(), match[0], match[1]
        end = match.end()
    yield end, text[end:], None


def prompts(context: str, null: str, style: Sequence[str], embeddings: Mapping[str, Embedding]) -> Prompts:
    """The prompts of the lanes, with the style's template around the context. `style` has one name, or one for each
    stage.

    `embeddings` by name.
    """
    if not style:
        return Prompts(Text.of(context), Text.of(null))
    known = [embeddings[name] for name in style]
    full = tuple(filled(one.prompt, context, name) for name, one in zip(style, known, strict=True))
    alone = tuple(filled(one.style_prompt, context, name) for name, one in zip(style, known, strict=True))
    return Prompts(Text(full), Text.of(null), Text.of(context), Text(alone))


def filled(template: str, context: str, style: str = "") -> str:
    """`template` with its places filled; `style` is a trigger's name."""
    words = {"{context}": context, "{style}": f"<{style}>"}
    return re.sub(r"\{context\}|\{style\}", lambda found: words[found[0]], template)


@dataclass(frozen=True)
class Line:
    """A text at one stage. `learned` has for each trigger its embedding's digest and the stage of it that is read."""

    text: str
    learned: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Staged:
    """Prompt embeds by stage, the finest first."""

    stages: tuple[Embeds, ...]

    def at(self, timestep: float, train_timesteps: float) -> Embeds:
        """The embeds at a training timestep t: stage ⌊t / train_timesteps · stages⌋ (arXiv 2309.06933, section 3.2)."""
        return self.stages[int(timestep * len(self.stages) / train_timesteps)]


def common_stages(text: Text, embeddings: Mapping[str, Embedding]) -> int:
    """The least common multiple of the text's and its triggers' stage counts; `embeddings` by name."""
    named = {name for stage in text.stages for name in triggers(stage)}
    return lcm(len(text.stages), *(embeddings[name].stages for name in named))


def lines(text: Text, embeddings: Mapping[str, Embedding]) -> tuple[Line, ...]:
    """The text's lines, one for each common stage; `embeddings` by name."""
    count, own = common_stages(text, embeddings), len(text.stages)
    spoken = [[embeddings[name] for name in triggers(words)] for words in text.stages]
    return tuple(
        Line(
            text.stages[stage * own // count],
            tuple((one.digest, stage * one.stages // count) for one in spoken[stage * own // count]),
        )
        for stage in range(count)
    )


def check_lines(texts: Iterable[Text], embeddings: Mapping[str, Embedding], field: str) -> None:
    """Check that the lanes' texts make few lines. Raises InvalidArgument for the request's `field`."""
    texts = tuple(dict.fromkeys(texts))
    fix = "name fewer embeddings of many stages, or embeddings with equal numbers of stages"
    most = max((common_stages(text, embeddings) for text in texts), default=1)
    if most > MAX_COMMON_STAGES:
        own = {len(text.stages) for text in texts} | {one.stages for one in embeddings.values()}
        counts = ", ".join(map(str, sorted(own - {1})))
        problem = f"the least common multiple of {counts} stages is {most}, more than {MAX_COMMON_STAGES}"
        raise InvalidArgument(field, problem, fix)
    count = len({line for text in texts for line in lines(text, embeddings)})
    if count > MAX_LINES:
        raise InvalidArgument(field, f"its stages make {count} different prompts, more than {MAX_LINES}", fix)
