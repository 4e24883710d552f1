"""Published runs that generate text, against forecasts: what `python -m accuracy` does with rows of tokens."""

PROMPT, TOKEN = PHASES = (
    "prompt",
    "token",
)  # what a call does: read the prompts, or write the next token of each sequence
