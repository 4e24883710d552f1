"""Lint rules, one per file: RULE (its name), ABOUT (one sentence), `check(subject, context)` and, if it can, `fix`.

SCHEMAS says to which files it applies; chip files where it is left out. `fix(text, problem)` returns the text with
that one problem mended. Adding a rule is adding a file.
"""
