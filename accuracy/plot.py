"""A scatter plot of forecast against measured as SVG, both axes in powers of ten."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

SIZE, MARGIN = 560, 60
COLOURS = ("#1f5f99", "#b3541e", "#3b7d3b", "#7a4a9e", "#a8323e", "#5b6b73", "#9a7b1f", "#1f8a8a")


def scatter(points: Sequence[tuple[float, float, str, str]], title: str) -> str:
    """points: (measured, forecast, group, words shown on hover). The band is 10% to either side."""
    values = [value for point in points for value in point[:2] if value > 0]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    span = max(high - low, 1)

    def at(value: float) -> float:
        return (log10(value) - low) / span * SIZE

    groups = sorted({point[2] for point in points})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE + 2 * MARGIN + 170} {SIZE + 2 * MARGIN}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="{MARGIN}" y="24" font-size="15">{escape(title)}</text>',
        f'<g transform="translate({MARGIN},{MARGIN})">',
        f'<rect width="{SIZE}" height="{SIZE}" fill="none" stroke="#999"/>',
        *band(low, high, at),
    ]
    for power in range(low, high + 1):
        place = (power - low) / span * SIZE
        lines.append(f'<text x="{place:.1f}" y="{SIZE + 18}" text-anchor="middle">{10.0**power:g} s</text>')
        lines.append(f'<text x="-8" y="{SIZE - place + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>')
    lines.append(f'<text x="{SIZE / 2}" y="{SIZE + 42}" text-anchor="middle">measured</text>')
    lines.append(f'<text transform="translate(-46,{SIZE / 2}) rotate(-90)" text-anchor="middle">forecast</text>')
    for measured, forecast, group, words in points:
        colour = COLOURS[groups.index(group) % len(COLOURS)]
        lines.append(f'<circle cx="{at(measured):.1f}" cy="{SIZE - at(forecast):.1f}" r="3" fill="{colour}" '
                     f'fill-opacity="0.6"><title>{escape(words)}</title></circle>')  # fmt: skip
    for index, group in enumerate(groups):
        colour = COLOURS[index % len(COLOURS)]
        lines.append(f'<circle cx="{SIZE + 16}" cy="{8 + 18 * index}" r="4" fill="{colour}"/>')
        lines.append(f'<text x="{SIZE + 26}" y="{12 + 18 * index}">{escape(group)}</text>')
    return "\n".join([*lines, "</g>", "</svg>", ""])


def band(low: int, high: int, at: object) -> list[str]:
    assert callable(at)
    found = []
    for factor, style in ((1.0, "#444"), (1.1, "#bbb"), (1 / 1.1, "#bbb")):
        begin, end = at(10.0**low), at(10.0**high)
        shift = at(10.0**low * factor) - begin
        found.append(f'<line x1="{begin:.1f}" y1="{SIZE - begin - shift:.1f}" x2="{end:.1f}" y2="{SIZE - end - shift:.1f}" '
                     f'stroke="{style}"/>')  # fmt: skip
    return found
