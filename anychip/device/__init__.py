"""The virtual chip: a process in which a program's torch finds a CUDA device that computes nothing and records everything.

`launch` starts it from outside, `python -m anychip.device` is that process, `install` puts the chip in, `runtime` is the chip.
"""
