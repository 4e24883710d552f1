"""Stand-in for adam-atan2, whose one kernel updates all parameters."""

from typing import Any

from anychip.standins.libraries.optimizers import AdamATan2

VERSION = "0.0.3"

MODULES: dict[str, dict[str, Any]] = {"adam_atan2": {"AdamATan2": AdamATan2}}

UNCOVERED: dict[str, tuple[str, ...]] = {}
