"""Settings out of the texts that people type."""

from __future__ import annotations

from parallel_nst.errors import BadInput

MOST_TILES = 10_000  # along a side, and in all where only a count is given


def parse_layers(text: str) -> dict[str, float]:
    """'relu1_1=1,relu3_1=0.5' -> weights by layer; a layer without a number has weight 1."""
    weights = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            weights[name] = float(number or 1)
        except ValueError:
            raise BadInput(f"layer weight is {part.strip()!r}; give NAME=NUMBER, such as relu1_1=0.5") from None
    return weights


def parse_size(text: str) -> int:
    """A number of px, or 0 for 'full'."""
    if text == "full":
        return 0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadInput(f"size is {text!r}; give a number of px of at least 1, or full")
    return int(text)


def parse_numbers(text: str) -> tuple[float, ...]:
    """'0.7,0.3' -> (0.7, 0.3)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"weights are {text!r}; give numbers with commas between, such as 0.7,0.3") from None


def parse_grid(text: str) -> tuple[int, int | None]:
    """'4' -> (4, None): a count; '2x3' -> (2, 3): rows and columns. ValueError for anything else."""
    parts = text.lower().split("x")
    if len(parts) <= 2 and all(part.isascii() and part.isdigit() and 0 < int(part) <= MOST_TILES for part in parts):
        return (int(parts[0]), int(parts[1])) if len(parts) == 2 else (int(parts[0]), None)
    raise BadInput(f"tiles is {text!r}; give a number from 1 to {MOST_TILES}, rows x columns such as 2x3, or auto")
