"""A program whose first tensor is too large: nothing filled the memory before, and no heading announces what."""

from tests.command import forecast


def test_nothing_is_announced_where_nothing_was_held(tmp_path) -> None:
    program = tmp_path / "large.py"
    program.write_text("import torch\ntorch.empty(1 << 40, device='cuda')\n")
    done = forecast("--quiet", str(program))
    assert done.returncode == 1
    assert "the program was refused 4.00 TiB more of 79.1 GiB, at large.py:2" in done.err
    assert "memory at peak" not in done.err
