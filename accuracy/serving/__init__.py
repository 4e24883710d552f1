"""Published runs that generate text, against forecasts: `python -m accuracy.serving` (see `__main__`)."""
