"""Operators on a virtual chip: one kernel for each, what comes out of it, and what an accelerator fuses."""
