"""A request's candidates in the order of what a scorer says of them."""

from __future__ import annotations

from collections.abc import Sequence

from impasto_server.content import read_whole
from impasto_server.errors import InvalidArgument, shown
from impasto_server.request import Request
from impasto_server.score import Pixels, Scorer


class Ranking:
    """What `rerank` asks for, of a server that may have no scorer."""

    def __init__(self, scorer: Scorer | None) -> None:
        self._scorer = scorer

    def reference(self, request: Request) -> Pixels | None:
        """The picture that candidates are compared with, if any. Raises InvalidArgument, also without a scorer."""
        if request.rerank is not None and self._scorer is None:
            raise InvalidArgument("RERANK", "this server has no scorer", "leave it out, or start it with --scorer")
        return None if request.style_image is None else read_whole(request.style_image, "STYLE_IMAGE")

    def warnings(self, request: Request) -> list[str]:
        """What the scorer doesn't read of the prompt that it judges by."""
        unread = self._scorer.unread(request.prompt) if self._scorer and request.rerank == "text" else ""
        return [f"RERANK: the scorer reads less of PROMPT; not read: {shown(unread)}"] if unread else []

    def order(
        self, request: Request, pictures: Sequence[Pixels], reference: Pixels | None
    ) -> tuple[list[int], tuple[float, ...] | None]:
        """Which of `pictures` comes first, and so on; and the score of each in that order, where any is asked for."""
        order = list(range(len(pictures)))
        if self._scorer is None or request.rerank is None:
            return order, None
        if reference is None:
            scores = self._scorer.text(pictures, request.prompt)
        else:
            scores = self._scorer.picture(pictures, reference)
        order.sort(key=lambda i: -scores[i])
        return order, tuple(scores[i] for i in order)
