"""Factorisations and what was measured of them: columns follow one another, and matrices of a batch, where no routine takes them at once."""

import pytest

from anychip.cost import price_op, work
from anychip.spec import load_chip
from tests.cost.ops import op, t


def seconds(name, chip, *shape):
    matrix = t(*shape, dtype="float32")
    return price_op(op(f"aten.{name}", matrix, out=(matrix, matrix)), load_chip(chip)).time_s


@pytest.mark.parametrize(
    ("name", "chip", "shape", "measured_s"),
    [
        ("linalg_cholesky_ex.default", "l40s", (512, 512), 186e-6),
        ("linalg_cholesky_ex.default", "l40s", (2048, 2048), 951e-6),
        ("linalg_cholesky_ex.default", "l40s", (4096, 4096), 2366e-6),
        ("linalg_cholesky_ex.default", "l40s", (16, 512, 512), 664e-6),
        ("linalg_qr.default", "h100", (128, 32), 189e-6),
        ("linalg_qr.default", "3090", (1024, 4, 4), 25984e-6),
        ("_linalg_eigh.default", "h100", (500, 100, 100), 914e-3),  # (on a GPU that its source does not name)
        ("_linalg_svd.default", "v100", (300, 900, 100), 1.609),
    ],
)
def test_as_long_as_was_measured_within_a_factor(name, chip, shape, measured_s):
    """A kernel for eleven columns of any of them, and none for a second matrix: eigh of 500 was said to take a thousandth."""
    assert measured_s / 2.5 < seconds(name, chip, *shape) < 2.5 * measured_s


def test_small_matrices_are_worked_on_at_once():
    small, batch = (work(op("aten._linalg_eigh.default", t(*shape, dtype="float32"))) for shape in ((8, 8), (64, 8, 8)))
    assert batch.kernels == small.kernels
