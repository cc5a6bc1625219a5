"""The colours of activations, in the report's figures and in the tracker's charts."""

from collections.abc import Sequence

# Petroff, "Accessible color sequences for data visualization", 2021, arXiv 2107.02270: ten colours
# that stay apart for people with a colour vision deficiency; here the greys come last.
_SEQUENCE = (
    *("#3f90da", "#ffa90e", "#832db6", "#bd1f01", "#a96b59"),
    *("#e76300", "#b9ac70", "#717581", "#92dadd", "#94a4a2"),
)


class Palette:
    """One fixed colour for every activation of a report."""

    def __init__(self, activations: Sequence[str]) -> None:
        self._order = {label: i for i, label in enumerate(activations)}

    def colour(self, activation: str) -> str:
        """Return an activation's colour; beyond ten activations they repeat."""
        return _SEQUENCE[self._order[activation] % len(_SEQUENCE)]

    def tint(self, activation: str, variant: int) -> str:
        """Return an activation's colour, lighter for each further variant of it."""
        colour = self.colour(activation)
        white = 1 - 0.6**variant
        channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
        return "#" + "".join(f"{round(c + (255 - c) * white):02x}" for c in channels)

    def line(self, activation: str, variant: int = 0) -> str:
        """Return a line style, which tells activations, and variants of one, of a colour apart."""
        return ("-", "--", ":", "-.")[(self._order[activation] // len(_SEQUENCE) + variant) % 4]
