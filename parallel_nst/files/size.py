"""How large a picture is, in the one order that everything here has."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in px, in the order of arrays. As text it is width x height, as people write it."""

    height: int
    width: int

    @property
    def area(self) -> int:
        """In px."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
