"""A transformer in plain PyTorch that trains as the published runs did: what `python -m accuracy` forecasts where the program
of a run is not public or not PyTorch. `python -m accuracy.reference --help` says what it can be told."""
