"""Published runs that generate text, against forecasts: `python -m accuracy.serving` (see `__main__`)."""

PROMPT, TOKEN = PHASES = (
    "prompt",
    "token",
)  # what a call does: read the prompts, or write the next token of each sequence
