"""A model whose sizes nobody knows by its name: which, and where names or sizes come from."""

import pytest

from accuracy.__main__ import main

ROWS = """id,chip,chips,model,layers,seq_len,global_batch,metric,value
a-1,nvidia-h100-sxm,8,llama99-8b,,8192,16,step_time_s,3
a-2,nvidia-h100-sxm,8,llama3-8b,,8192,,step_time_s,3
a-3,nvidia-h100-sxm,8,,,8192,16,step_time_s,3
"""


def test_the_name_that_is_no_public_model_is_told(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(ROWS)
    assert main(["--rows", str(rows), "--known"]) == 1
    told = capsys.readouterr().out
    assert "a-1, a-3: the source does not say layers" in told
    assert (
        "of no model called 'llama99-8b' the sizes are known: a name of accuracy/shapes.csv, or columns layers," in told
    )
