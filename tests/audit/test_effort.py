"""The estimate of effort, and that the page says the numbers of its table."""

import re
import statistics
from pathlib import Path

import pytest

from anychip.audit.effort import effort, lines_per_place
from anychip.audit.engine import audit
from anychip.audit.finding import Finding
from anychip.audit.terminal import effort_text
from anychip.source.module import Place

PAGE = Path(__file__).resolve().parents[2] / "docs" / "audit.md"


def findings(**counts):
    return [
        Finding("r", severity, Place("a.py", 1, 1), "s", "m", "f") for severity, n in counts.items() for _ in range(n)
    ]


def test_places_times_the_median_of_ports(monkeypatch):
    monkeypatch.setattr("anychip.audit.effort.lines_per_place", lambda: tuple(float(n) for n in range(1, 12)))
    found = effort(findings(automatic=6, thought=4, rewrite=3, blocks=1, flow=9, cosmetic=9), {"a.py": 1000})
    # Ratios 1 to 11: median 6; the first of nine cuts into tenths is 1 + 10/10 = 2, the last 10. 10 places.
    assert (found.places, found.lines, found.low, found.high) == (10, 60, 20, 100)
    assert (found.kernels, found.num_ports) == (4, 11)


def test_a_kernel_is_not_counted_by_its_lighter_places(tmp_path):
    """A Triton kernel and calls of CUDA's runtime were places at 2.3 lines, beside "places in kernels not included"."""
    (tmp_path / "a.py").write_text("import triton\n@triton.jit\ndef k(x): ...\n")
    (tmp_path / "k.cu").write_text("void f() {\n  cudaMalloc(&p, 4);\n  k<<<1, 32>>>(p);\n}\n")
    found = audit(tmp_path, cache=False)
    assert found.by_severity["thought"] == 3  # import triton, @triton.jit, cudaMalloc
    assert (found.effort.places, found.effort.kernels) == (1, 3)


def test_nothing_to_do_is_no_effort():
    assert effort(findings(flow=3), {"a.py": 1}).lines == 0


def test_no_file_takes_more_lines_than_it_has(monkeypatch):
    """A program of 16 lines was told to take 100. Median 6 of 10 places is 60, the low end 20, and the file has 16 and then 30."""
    monkeypatch.setattr("anychip.audit.effort.lines_per_place", lambda: tuple(float(n) for n in range(1, 12)))
    found = effort(findings(automatic=10), {"a.py": 16})
    assert (found.lines, found.low, found.high, found.bounded) == (16, 16, 16, True)
    found = effort(findings(automatic=10), {"a.py": 30})
    assert (found.lines, found.low, found.high, found.bounded) == (30, 20, 30, True)
    assert not effort(findings(automatic=10), {"a.py": 60}).bounded


def test_the_report_says_what_it_is_made_of(tmp_path):
    code = 'import subprocess\nimport torch\nx = torch.zeros(2).cuda()\nsubprocess.run(["nvidia-smi"])\n'
    (tmp_path / "a.py").write_text(code)
    text = effort_text(audit(tmp_path, cache=False))
    # Two places at 2.26 lines are 4.5, and the file has 4; port leaves nvidia-smi: 2.26 lines.
    assert text.startswith(
        "effort: about 4 lines changed by hand: 2 places at 2.3 lines, the median of 69 merged ports"
    )
    assert ", but no more than a file has; " in text
    assert text.endswith("; after anychip port about 2 lines, for 1 place")


def test_the_page_says_what_the_table_says():
    ratios = lines_per_place()
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    text = " ".join(PAGE.read_text().split())
    said = re.search(r"Calibrated on (\d+) merged.*? changed ([\d.]+) lines.*? between ([\d.]+) and ([\d.]+)", text)
    assert said is not None
    assert int(said[1]) == len(ratios)
    assert float(said[2]) == pytest.approx(statistics.median(ratios), rel=0.02)
    assert float(said[3]) == pytest.approx(tenths[0], rel=0.02)
    assert float(said[4]) == pytest.approx(tenths[-1], rel=0.02)
