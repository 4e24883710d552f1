"""Sparse products: work counted by hand."""

from anychip.cost import work
from tests.cost.ops import op, t


def test_a_row_of_the_dense_matrix_for_each_value():
    # 500 values in [100, 80], dense [80, 16], fp32.
    # flop: 2 * 500 * 16 = 16,000
    # read: indices 2 * 500 * 8 = 8,000, values 500 * 4 = 2,000, rows 500 * 16 * 4 = 32,000; together 42,000
    # written: 100 * 16 * 4 = 6,400
    task = work(op("aten._sparse_mm.default", t(2, 500, dtype="int64"), t(500, dtype="float32"),
                   t(80, 16, dtype="float32"), out=t(100, 16, dtype="float32")))  # fmt: skip
    assert (task.flop, task.bytes_read, task.bytes_written, task.kernels) == (16_000, 42_000, 6_400, 2)
    assert task.known


def test_the_dense_matrix_may_come_first_and_a_third_is_added():
    # As above with int32 indices of a compressed matrix, 101 + 500 of 4 bytes = 2,404, and 6,400 bytes more to add.
    sparse = (t(101, dtype="int32"), t(500, dtype="int32"), t(500, dtype="float32"))
    dense, added = t(80, 16, dtype="float32"), t(100, 16, dtype="float32")
    task = work(op("aten._sparse_mm.default", *sparse, dense, added, out=t(100, 16, dtype="float32")))
    assert (task.flop, task.bytes_read) == (16_000, 2_404 + 2_000 + 32_000 + 6_400)


def test_values_of_two_sparse_ones_meet_in_the_inner_dimension():
    # 500 values, each meets 600 / 80 = 7.5 of the other: 3,750 multiplications and additions
    one, other = ((t(2, count, dtype="int64"), t(count, dtype="float32")) for count in (500, 600))
    task = work(op("aten._sparse_mm.default", *one, *other, out=t(3750, dtype="float32"), inner=80))
    assert (task.flop, task.known) == (7_500, True)


def test_coalescing_sorts_its_places():
    # 8 passes over 8-byte keys and 8-byte positions, read and written: 8 * 16 * 500 = 64,000 each way
    task = work(op("aten._coalesce.default", t(2, 500, dtype="int64"), t(500, dtype="float32"),
                   out=t(500, dtype="float32")))  # fmt: skip
    assert task.known
    assert task.bytes_written == 64_000 + 2_000


def test_a_sparse_gradient_touches_the_rows_that_it_has():
    """A table of 1,000,000 rows of 64, of which 4,096 were used: 1 MB each of gradient, read and written, and 8 bytes an index."""
    table, values = t(1_000_000, 64, dtype="float32"), t(4096, 64, dtype="float32")
    task = work(op("aten._sparse_add_.default", table, t(1, 4096, dtype="int64"), values, -0.1, mutates=(0,)))
    assert (task.bytes_read, task.bytes_written) == (4096 * 8 + 2 * 4096 * 256, 4096 * 256)
