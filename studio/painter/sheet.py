"""Pictures side by side."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from studio.painter.arrays import Bytes
from studio.painter.painting import Painting


def contact_sheet(
    pictures: Sequence[Painting | Bytes], columns: int, labels: Sequence[str] | None = None
) -> Image.Image:
    """A grid of paintings or uint8 [H, W, 3] arrays, row by row, with small labels below."""
    images = [p.image if isinstance(p, Painting) else p for p in pictures]
    size, text = len(images[0]), 14 if labels else 0
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (size + 4), rows * (size + 4 + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = i % columns * (size + 4) + 2, i // columns * (size + 4 + text) + 2
        sheet.paste(Image.fromarray(image), (x, y))
        if labels:
            draw.text((x + 2, y + size), labels[i], fill="black")
    return sheet
