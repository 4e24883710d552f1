"""A chip file outside of the tree, and a way to write more of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

ACME = """\
schema_version = 1
id = "acme-one"
aliases = ["one"]
vendor = "Acme"
name = "One"
platform = "nvidia-cuda"
execution = "kernel"

[sources.sheet]
title = "Acme One data sheet"
url = "https://acme.example/one"
kind = "reported"
date = "2026-01-02"

[peaks.matrix]
bf16 = { value = 100, unit = "TFLOP/s", src = "sheet" }
fp8 = "none"
int8 = "unknown"

[memory.main]
capacity = { value = 32, unit = "GB", src = "sheet" }
bandwidth = { value = 1, unit = "TB/s", src = "sheet", kind = "derived", date = "2026-02" }
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """write(text, name) puts a chip file on $ANYCHIP_PATH."""
    monkeypatch.setenv("ANYCHIP_PATH", str(tmp_path))

    def put(text: str = ACME, name: str = "acme-one") -> Path:
        file = tmp_path / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return put
