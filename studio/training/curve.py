"""A loss curve as a picture."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw


def draw_curve(losses: list[float], title: str, path: Path, width: int = 480, height: int = 240) -> None:
    """The loss, averaged over 1 % of the run at a time, on a logarithmic axis."""
    window = max(1, len(losses) // 100)
    means = [sum(losses[i : i + window]) / window for i in range(0, len(losses) - window + 1, window)]
    logs = [math.log(max(mean, 1e-8)) for mean in means]
    low, high = min(logs), max(logs) + 1e-6
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 50, 24, width - 10, height - 24
    spots = [
        (left + (right - left) * i / max(1, len(logs) - 1), bottom - (bottom - top) * (log - low) / (high - low))
        for i, log in enumerate(logs)
    ]
    draw.rectangle((left, top, right, bottom), outline="lightgrey")
    draw.line(spots, fill=(40, 98, 214), width=2)
    draw.text((left, 6), title, fill="black")
    draw.text((4, top), f"{math.exp(high):.3g}", fill="black")
    draw.text((4, bottom - 10), f"{math.exp(low):.3g}", fill="black")
    draw.text((left, bottom + 6), f"{len(losses)} steps", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
