"""Figures of a step, from its timeline: what a `Forecast` is made of."""

from anychip.figures.batch import batch_of
from anychip.figures.like import has_frozen_weights, is_compiled
from anychip.figures.of_job import AxisFigures, GoodputFigures, PathPart, RankFigures
from anychip.figures.sums import (
    RestsOn,
    TopOp,
    added_s,
    before_training,
    beyond_of,
    breakdown_of,
    by_phase_of,
    called_in,
    copies_of,
    inference_of,
    issued_s,
    products_in,
    rests_on,
    shape_text,
    shares_of,
    top_ops_of,
    totals_of,
)
from anychip.figures.window import UNEVEN, Floats, Window

__all__ = [
    "UNEVEN",
    "AxisFigures",
    "Floats",
    "GoodputFigures",
    "PathPart",
    "RankFigures",
    "RestsOn",
    "TopOp",
    "Window",
    "added_s",
    "batch_of",
    "before_training",
    "beyond_of",
    "breakdown_of",
    "by_phase_of",
    "called_in",
    "copies_of",
    "has_frozen_weights",
    "inference_of",
    "is_compiled",
    "issued_s",
    "products_in",
    "rests_on",
    "shape_text",
    "shares_of",
    "top_ops_of",
    "totals_of",
]
