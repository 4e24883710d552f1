"""Figures of a step, from its timeline: what a `Forecast` is made of."""

from anychip.figures.batch import batch_of
from anychip.figures.error import compared_with, error_of, is_prompt, layers_of, together, unlike_share
from anychip.figures.like import has_frozen_weights, is_compiled
from anychip.figures.limit import host_of, limit_of
from anychip.figures.of_job import AxisFigures, GoodputFigures, PathPart, RankFigures
from anychip.figures.sums import (
    RestsOn,
    TopOp,
    added_s,
    after_calls_s,
    before_training,
    beyond_of,
    breakdown_of,
    by_phase_of,
    called_in,
    copies_of,
    crowded_s,
    evaluated,
    inference_of,
    issued_s,
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
    "after_calls_s",
    "batch_of",
    "before_training",
    "beyond_of",
    "breakdown_of",
    "by_phase_of",
    "called_in",
    "compared_with",
    "copies_of",
    "crowded_s",
    "error_of",
    "evaluated",
    "has_frozen_weights",
    "host_of",
    "inference_of",
    "is_compiled",
    "is_prompt",
    "issued_s",
    "layers_of",
    "limit_of",
    "rests_on",
    "shape_text",
    "shares_of",
    "together",
    "top_ops_of",
    "totals_of",
    "unlike_share",
]
