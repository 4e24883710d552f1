"""Time: what a recorded program's words mean on a chip's streams and on its host."""

from anychip.timeline.engine import Engine
from anychip.timeline.price import Timeline, price

__all__ = ["Engine", "Timeline", "price"]
