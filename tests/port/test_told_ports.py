"""One screen of a port: its parts stand one blank line apart, and of no uses there is no share."""

import re

import pytest

from anychip.port import show
from anychip.port.project import port

KERNEL = "__global__ void add(float *a) { a[threadIdx.x] += 1; }\n"


@pytest.mark.parametrize("skipped", [False, True])
def test_parts_of_a_port_stand_one_line_apart(skipped: bool, tmp_path) -> None:
    (tmp_path / "train.py").write_text("import torch\n\nx = y.cuda()\n")
    (tmp_path / "add.cu").write_text(KERNEL)
    if skipped:
        (tmp_path / "old.py").write_text("print 'cuda'\n")
    told = show.text(port(tmp_path))
    assert ("\nskipped, 1 file:" in told) == skipped
    assert "\n\nneeds torch >= 2.7" in told
    assert not re.search(r"\n\n\n", told)


def test_of_kernels_that_use_no_function_of_cuda_no_share_is_told(tmp_path) -> None:
    (tmp_path / "add.cu").write_text(KERNEL)
    told = show.text(port(tmp_path))
    assert "0 uses of CUDA's functions and libraries:" in told
