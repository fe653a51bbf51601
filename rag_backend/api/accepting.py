"""Which of two forms a client wants, from its Accept header (RFC 9110, 12.5.1)."""

from __future__ import annotations


def prefers_json(accept: str) -> bool:
    """Whether `application/json` is wanted more than Prometheus' text formats.

    In doubt it is not: `*/*` and no header at all mean text.
    """
    ranges = dict(_ranges(accept))
    text = max(_quality(ranges, "text/plain"), _quality(ranges, "application/openmetrics-text"))
    return _quality(ranges, "application/json") > text


def _quality(ranges: dict[str, float], wanted: str) -> float:
    """The weight of a media type: the most specific range that covers it decides."""
    for name in (wanted, f"{wanted.partition('/')[0]}/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0


def _ranges(accept: str) -> list[tuple[str, float]]:
    found = []
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights = [p.partition("=")[2] for p in parameters if p.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            weight = 0.0
        if name:
            found.append((name, weight if 0 <= weight <= 1 else 0.0))
    return found
