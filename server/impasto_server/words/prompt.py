"""Prompts: what the lanes say, line by line.

A word in angle brackets, `<name>`, is a trigger: at its place stand the vectors of the embedding registered under that
name. An embedding in several stages makes a prompt another prompt at each of them; every one is encoded once.
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

MAX_COMMON_STAGES = 4096  # of what one lane says, the least that its triggers' numbers divide: any two go together
MAX_LINES = 256  # of a request, every one of which is encoded and held


def triggers(text: str) -> list[str]:
    """Names between angle brackets, in their order."""
    return TRIGGER.findall(text)


def pieces(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Where each piece begins, its words, and its name if it is a trigger."""
    end = 0
    for match in TRIGGER.finditer(text):
        yield end, text[end : match.start()], None
        yield match.start(), match[0], match[1]
        end = match.end()
    yield end, text[end:], None


def prompts(context: str, null: str, style: Sequence[str], embeddings: Mapping[str, Embedding]) -> Prompts:
    """What the lanes say, with a style's words around the context as it was trained; one style for each stage, or one.

    `embeddings` by name.
    """
    if not style:
        return Prompts(Text.of(context), Text.of(null))
    known = [embeddings[name] for name in style]
    full = tuple(filled(one.prompt, context, name) for name, one in zip(style, known, strict=True))
    alone = tuple(filled(one.style_prompt, context, name) for name, one in zip(style, known, strict=True))
    return Prompts(Text(full), Text.of(null), Text.of(context), Text(alone))


def filled(template: str, context: str, style: str = "") -> str:
    """`template` with its places filled, `style` being a trigger's name."""
    words = {"{context}": context, "{style}": f"<{style}>"}
    return re.sub(r"\{context\}|\{style\}", lambda found: words[found[0]], template)


@dataclass(frozen=True)
class Line:
    """A text at one stage: `learned` has each trigger's embedding, by digest, and the stage of it that is read."""

    text: str
    learned: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Staged:
    """Prompt embeds by stage, the finest first."""

    stages: tuple[Embeds, ...]

    def at(self, timestep: float, train_timesteps: float) -> Embeds:
        """Those of the training timestep: stage ⌊t / 1000 · stages⌋ (arXiv 2309.06933, section 3.2)."""
        return self.stages[int(timestep * len(self.stages) / train_timesteps)]


def common_stages(text: Text, embeddings: Mapping[str, Embedding]) -> int:
    """As many as the text's stages and its triggers' have in common; `embeddings` by name."""
    named = {name for stage in text.stages for name in triggers(stage)}
    return lcm(len(text.stages), *(embeddings[name].stages for name in named))


def lines(text: Text, embeddings: Mapping[str, Embedding]) -> tuple[Line, ...]:
    """One for each stage; `embeddings` by name."""
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
    """That what the lanes say comes to few lines. Raises InvalidArgument, in the name of a request's field."""
    texts = tuple(dict.fromkeys(texts))
    fix = "name fewer embeddings of many stages, or such as have as many stages as one another"
    most = max((common_stages(text, embeddings) for text in texts), default=1)
    if most > MAX_COMMON_STAGES:
        own = {len(text.stages) for text in texts} | {one.stages for one in embeddings.values()}
        counts = ", ".join(map(str, sorted(own - {1})))
        problem = f"{counts} stages have {most} in common, and {MAX_COMMON_STAGES} are the most"
        raise InvalidArgument(field, problem, fix)
    count = len({line for text in texts for line in lines(text, embeddings)})
    if count > MAX_LINES:
        raise InvalidArgument(field, f"its stages make {count} prompts of it, and {MAX_LINES} are the most", fix)
