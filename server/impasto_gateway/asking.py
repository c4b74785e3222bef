"""Ask a server for what a wish says: each step's progress if it streams, then the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from impasto_client import AsyncClient, Generation, Painting, Progress
from impasto_gateway.partials import preview_every
from impasto_gateway.wish import Wish

Answer = Generation | Painting


async def asked(client: AsyncClient, timeout_s: float, wish: Wish) -> AsyncGenerator[Progress | Answer, None]:
    """The answer comes last. Closing the generator, or cancelling its task, stops the work on the server at once.

    Raises errors of the ImpastoError tree.
    """
    options: dict[str, Any] = {**wish.options, "timeout": timeout_s}
    if wish.kind == "stylize":
        yield await client.stylize(**options)
    elif not wish.stream:
        paint = client.upscale if wish.kind == "upscale" else client.generate
        yield await paint(prompt=wish.prompt, **options)
    else:
        if wish.kind == "upscale":
            options["base_image"] = options.pop("picture")
        every = preview_every(wish.steps, wish.partial_images)
        async with aclosing(client.stream(wish.prompt, preview_every=every, **options)) as parts:
            async for part in parts:
                yield part
