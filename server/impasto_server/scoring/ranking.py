"""The ranking of a request's candidates by the scorer. Only the pictures' embeddings are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from impasto_server.errors import InvalidArgument, shown
from impasto_server.pictures.content import pixels_of, read_whole
from impasto_server.request import Request
from impasto_server.scoring.score import Array, Pixels, Scorer, cosines
from impasto_server.turns import Work


class Ranking:
    """Does what RERANK asks for, on a server that may have no scorer."""

    def __init__(self, scorer: Scorer | None) -> None:
        self._scorer = scorer

    def check(self, request: Request) -> None:
        """Raises InvalidArgument for RERANK on a server without a scorer."""
        if request.ranking.rerank is not None and self._scorer is None:
            raise InvalidArgument("RERANK", "this server has no scorer", "leave it out, or start it with --scorer")

    def reference(self, request: Request) -> Work[Array | None]:
        """The embedding [1, E] of the picture that candidates are compared with, if any. Raises InvalidArgument."""
        if self._scorer is None or request.ranking.style_image is None:
            return None
        yield pixels_of(request.ranking.style_image)
        return self._scorer.images([read_whole(request.ranking.style_image, "STYLE_IMAGE")])

    def warnings(self, request: Request) -> list[str]:
        """A warning if the scorer doesn't read all of the prompt that it ranks by."""
        unread = self._scorer.unread(request.words.prompt) if self._scorer and request.ranking.rerank == "text" else ""
        return [f"RERANK: the scorer doesn't read all of PROMPT; not read: {shown(unread)}"] if unread else []

    def embeds(self, request: Request, picture: Pixels) -> list[Array]:
        """A candidate's embedding [1, E], which `order` needs; empty if nothing is ranked."""
        return [] if self._scorer is None or request.ranking.rerank is None else [self._scorer.images([picture])]

    def order(
        self, request: Request, embeds: Sequence[Array], reference: Array | None
    ) -> tuple[list[int], tuple[float, ...] | None]:
        """The candidates' indices, best first, and their scores in that order; None where nothing is ranked."""
        if self._scorer is None or request.ranking.rerank is None:
            return list(range(request.seeds.n)), None
        wanted = self._scorer.texts([request.words.prompt]) if reference is None else reference
        scores = [float(score) for score in cosines(np.concatenate(embeds), wanted)]
        order = sorted(range(request.seeds.n), key=lambda i: -scores[i])
        return order, tuple(scores[i] for i in order)
