"""Bytes and launches, each by a sum worked by hand."""

import pytest

from anychip.cost import Gemm, work
from anychip.cost.lists import multi_tensor_launches
from anychip.cost.work import work_of
from anychip.record import Op
from tests.cost.ops import add, mm, op, t


def test_product_moves_each_operand_once():
    # [4, 8] @ [8, 16] in bf16: read (32 + 128)*2 = 320 bytes, write 64*2 = 128, flop 2*4*16*8 = 1024
    task = work(mm(4, 16, 8))
    assert (task.flop, task.bytes_read, task.bytes_written, task.kernels) == (1024, 320, 128, 1)
    assert task.gemm == (Gemm(1, 4, 16, 8, "nn"),)
    assert (task.unit, task.dtype, task.kind) == ("matrix", "bf16", "gemm")


def test_a_bag_reads_as_many_rows_as_it_has_indices():
    # 64 rows of 8 bf16 values into 16 bags: reads 64 * 16 bytes and 64 indices of 8, writes 16 * 16
    table, index, bags = t(64, 8), t(64, dtype="int64"), t(16, dtype="int64")
    task = work(op("aten._embedding_bag.default", table, index, bags, out=t(16, 8)))
    assert (task.bytes_read, task.bytes_written, task.flop) == (64 * 16 + 64 * 8, 16 * 16, 64 * 8)


def test_four_bit_values_are_two_to_an_element():
    # [128, 64 x 2] @ [64 x 2, 256]: 2*128*256*128 flop, (128*64 + 64*256) bytes read
    low = t(128, 64, dtype="float4_e2m1fn_x2"), t(64, 256, stride=(1, 64), dtype="float4_e2m1fn_x2")
    task = work(op("aten._scaled_mm.default", *low, out=t(128, 256)))
    assert (task.flop, task.bytes_read, task.dtype) == (2 * 128 * 256 * 128, 128 * 64 + 64 * 256, "fp4")
    grouped = t(128, 64, dtype="float4_e2m1fn_x2"), t(4, 64, 256, dtype="float4_e2m1fn_x2")
    assert work(op("aten._scaled_grouped_mm_v2.default", *grouped, out=t(128, 256))).flop == task.flop


def test_distances_are_a_product():
    # `torch.cdist` of 1000 and 256 points in 64 dimensions: two columns more, 2*1000*256*66 flop; it was counted none
    a, b, out = (t(*shape, dtype="float32") for shape in ((1000, 64), (256, 64), (1000, 256)))
    task = work(op("aten._euclidean_dist.default", a, b, out=out))
    assert (task.flop, task.unit, task.kind) == (2 * 1000 * 256 * 66, "matrix", "gemm")
    assert task.bytes_written == 3 * out.nbytes + 2 * (a.nbytes + b.nbytes)


def test_a_product_of_complex_numbers_is_four_real_ones():
    # [2, 8, 4] @ [2, 4, 16] in complex64: 4 x 2*2*8*16*4 flop; (64 + 128)*8 bytes read, 256*8 written
    a, b, out = t(2, 8, 4, dtype="complex64"), t(2, 4, 16, dtype="complex64"), t(2, 8, 16, dtype="complex64")
    task = work(op("aten.bmm.default", a, b, out=out))
    assert (task.flop, task.model_flop, task.bytes_read, task.bytes_written) == (8192, 8192, 192 * 8, 256 * 8)
    assert (task.dtype, task.kernels) == ("fp32", 1)


def test_an_unknown_op_is_neither_free_nor_an_error():
    task = work(op("mylib.mystery.default", t(10, 10), t(5), out=t(10)))
    # (100 + 5 + 10) * 2
    assert (task.known, task.bytes_moved, task.flop, task.kernels) == (False, 230, 0, 1)


def test_an_expanded_input_is_read_once():
    # bias [768] expanded to [1024, 768]: 768 elements move
    bias = t(1024, 768, stride=(0, 1))
    x = t(1024, 768)
    task = work(op("aten.add.Tensor", x, bias, out=x))
    assert task.bytes_read == (1024 * 768 + 768) * 2


def test_in_place_reads_and_writes_but_overwriting_only_writes():
    x = t(100, dtype="float32")
    assert (work(op("aten.add_.Tensor", x, x, mutates=(0,))).bytes_read) == 800
    task = work(op("aten.zero_.default", x, mutates=(0,)))
    assert (task.bytes_read, task.bytes_written) == (0, 400)
    task = work(Op("aten.add.out", (x, x), (("out", x),), (), (2,)))
    # inputs twice 400; the result is only written
    assert (task.bytes_read, task.bytes_written) == (800, 400)


def test_a_host_scalar_costs_nothing():
    task = work(op("aten.mul.Tensor", t(10), t(dtype="float64", on_chip=False), out=t(10)))
    assert task.bytes_moved == 40


@pytest.mark.parametrize("name", ["aten.__lshift__.Scalar", "aten.__irshift__.Tensor", "aten.__and__.Tensor"])
def test_operators_named_after_pythons_own_are_one_pass(name):
    task = work(op(name, t(10, dtype="int32"), 1, out=t(10, dtype="int32")))
    assert (task.known, task.kind, task.bytes_moved) == (True, "elementwise", 80)


@pytest.mark.parametrize("name", ["aten.view.default", "aten.as_strided.default", "aten.empty.memory_format"])
def test_metadata_launches_nothing(name):
    task = work(op(name, t(10), out=t(10)))
    assert (task.kernels, task.bytes_moved) == (0, 0)


def test_an_empty_result_launches_nothing():
    assert work(op("aten.add.Tensor", t(0, 4), t(0, 4), out=t(0, 4))).kernels == 0
    assert work(mm(0, 4, 4)).kernels == 0


def test_softmax_of_a_long_row_reads_it_again():
    # rows of 1,024 stay on the chip; rows of 50,304 floats (201 KB) do not fit in 48 KiB of shared memory
    short, long = t(8, 1024, dtype="float32"), t(8, 50304, dtype="float32")
    assert work(op("aten._softmax.default", short, -1, False, out=short)).bytes_read == short.nbytes
    assert work(op("aten._log_softmax.default", long, -1, False, out=long)).bytes_read == 2 * long.nbytes


def test_cross_entropy_bytes_per_logit():
    """bf16 logits, autocast: the sum that eager PyTorch's kernels make of them, 44 bytes per logit."""
    rows, vocabulary = 4096, 50304
    half, full, target = t(rows, vocabulary), t(rows, vocabulary, dtype="float32"), t(rows, dtype="int64")
    scalar = t(dtype="float32")
    calls = [
        op("aten._to_copy.default", half, dtype="float32", out=full),  # 2 + 4
        op("aten._log_softmax.default", full, 1, False, out=full),  # 4 + 4 + 4
        op("aten.nll_loss_forward.default", full, target, None, 1, -100, out=(scalar, scalar)),
        op("aten.nll_loss_backward.default", scalar, full, target, None, 1, -100, scalar, out=full),  # 4
        op("aten._log_softmax_backward_data.default", full, full, 1, "float32", out=full),  # 4 + 4 + 4 + 4
        op("aten._to_copy.default", full, dtype="bfloat16", out=half),  # 4 + 2
    ]
    total = sum(work(call).bytes_moved for call in calls)
    assert total / half.numel == pytest.approx(6 + 12 + 4 + 16 + 6, rel=0.01)


def test_embedding_touches_rows_not_the_table():
    # 12*1024 tokens of 768 in fp32: rows read and written, 8-byte indices read; the 50,304-row table is not swept
    table, index, out = t(50304, 768, dtype="float32"), t(12, 1024, dtype="int64"), t(12, 1024, 768, dtype="float32")
    task = work(op("aten.embedding.default", table, index, out=out))
    assert task.bytes_read == 12 * 1024 * (768 * 4 + 8)
    assert task.bytes_written == out.nbytes


def test_embedding_backward_clears_the_table():
    grad, index, table = t(100, 8, dtype="float32"), t(100, dtype="int64"), t(1000, 8, dtype="float32")
    task = work(op("aten.embedding_dense_backward.default", grad, index, 1000, -1, False, out=table))
    assert task.bytes_written == table.nbytes + grad.nbytes
    assert task.kernels == 2
    many = t(4096, dtype="int64")
    task = work(op("aten.embedding_dense_backward.default", t(4096, 8), many, 1000, -1, False, out=table))
    assert task.kernels == 9


def test_copy_on_the_chip_and_across_the_link():
    a, b = t(100, dtype="float32"), t(100, dtype="bfloat16")
    task = work(op("aten._to_copy.default", a, dtype="bfloat16", out=b))
    assert (task.bytes_read, task.bytes_written, task.host_bytes, task.blocks_host) == (400, 200, 0, False)
    host = t(100, dtype="float32", on_chip=False)
    task = work(op("aten._to_copy.default", host, device="cuda:0", out=a))
    assert (task.host_bytes, task.blocks_host, task.kernels) == (400, True, 1)
    task = work(op("aten._to_copy.default", host, device="cuda:0", non_blocking=True, out=a))
    assert not task.blocks_host
    task = work(op("aten.copy_.default", host, a, mutates=(0,)))
    assert (task.host_bytes, task.blocks_host) == (400, True)
    assert not work(op("aten.copy_.default", a, host, True, mutates=(0,))).blocks_host
    assert work(op("aten.copy_.default", host, host, mutates=(0,))).kernels == 0


def test_reading_a_value_makes_the_host_wait():
    assert work(op("aten._local_scalar_dense.default", t())).blocks_host


# MultiTensorApply: at most 110, 64, 48, 36, 30 tensors a launch for 1 to 5 lists, at most 320 chunks of 65,536 elements.
@pytest.mark.parametrize(
    ("numels", "lists", "launches"),
    [
        ([10] * 110, 1, 1),
        ([10] * 111, 1, 2),
        ([10] * 148, 4, 5),  # 148 / 36 = 4.1
        ([65536 * 320], 1, 1),
        ([65536 * 320 + 1], 1, 2),
        ([65536 * 321] * 2, 1, 3),  # 642 chunks
        ([], 4, 0),
        ([0, 0], 2, 0),
    ],
)
def test_multi_tensor_launches(numels, lists, launches):
    assert multi_tensor_launches(numels, lists) == launches


def test_fused_adamw_reads_four_lists_and_writes_three():
    # parameters, gradients, two states in fp32: 16 bytes read and 12 written per element; 20 operations each
    lists = tuple(t(1000, dtype="float32") for _ in range(3))
    steps = tuple(t(dtype="float32") for _ in range(3))
    call = op("aten._fused_adamw_.default", lists, lists, lists, lists, (), steps, lr=0.1, mutates=range(12))
    task = work(call)
    assert (task.bytes_read, task.bytes_written, task.flop, task.kernels) == (48000, 36000, 60000, 1)


def test_foreach_counts_all_bytes():
    lists = tuple(t(1000, dtype="float32") for _ in range(148))
    task = work(op("aten._foreach_mul_.Scalar", lists, 0.9, mutates=range(148)))
    # 148 tensors, one list: 2 launches of at most 110
    assert (task.bytes_read, task.bytes_written, task.kernels) == (592000, 592000, 2)


def test_foreach_copy_reads_only_what_it_copies():
    # 2 x 1000 elements: 4 bytes read and 2 written of each.
    targets, sources = ((t(1000, dtype=kind),) * 2 for kind in ("bfloat16", "float32"))
    task = work(op("aten._foreach_copy_.default", targets, sources, mutates=range(2)))
    assert (task.bytes_read, task.bytes_written) == (8000, 4000)


def test_weight_norm_reads_and_writes_a_weight_once():
    v, g = t(512, 64, dtype="float32"), t(512, 1, dtype="float32")
    forward = work(op("aten._weight_norm_interface.default", v, g, 0, out=(v, g)))
    # square, add, scale
    assert (forward.flop, forward.bytes_moved, forward.known) == (3 * 512 * 64, 2 * (v.nbytes + g.nbytes), True)
    back = work(op("aten._weight_norm_interface_backward.default", v, v, g, g, 0, out=(v, g)))
    assert (back.bytes_read, back.known) == (2 * v.nbytes + 2 * g.nbytes, True)


def test_layer_norm_backward_passes_twice_over_its_inputs():
    x, w, s = t(64, 768), t(768), t(64, 1, dtype="float32")
    call = op("aten.native_layer_norm_backward.default", x, x, (768,), s, s, w, w, (True, True, True), out=(x, w, w))
    # two passes over gradient, input, statistics, weight and bias
    assert work(call).bytes_read == 2 * (2 * x.nbytes + 2 * s.nbytes + 2 * w.nbytes)
    assert work(call).kernels == 2


def test_depthwise_convolution_is_no_matrix_product():
    x, w = t(8, 64, 28, 28), t(64, 1, 3, 3)
    task = work(op("aten.convolution.default", x, w, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 64, out=x))
    # 2 * 8*28*28 positions * 64 channels * 9
    assert (task.unit, task.flop, task.gemm) == ("vector", 2 * 8 * 784 * 64 * 9, ())


def test_half_precision_convolution_transposes_what_is_not_channels_last():
    plain, last = t(8, 64, 28, 28), t(8, 64, 28, 28, stride=(64 * 784, 1, 28 * 64, 64))
    w = t(64, 64, 3, 3)
    w_last = t(64, 64, 3, 3, stride=(576, 1, 192, 64))
    rest = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    # three tensors to transpose, a launch each
    assert work(op("aten.convolution.default", plain, w, *rest, out=plain)).kernels == 4
    assert work(op("aten.convolution.default", last, w_last, *rest, out=last)).kernels == 1
    full = t(8, 64, 28, 28, dtype="float32")
    task = work(op("aten.convolution.default", full, t(64, 64, 3, 3, dtype="float32"), *rest, out=full))
    assert (task.kernels, task.dtype) == (1, "tf32")


def test_float32_products_take_tf32_only_where_the_program_allowed_it():
    a = t(8, 8, dtype="float32")
    assert work(op("aten.mm.default", a, a, out=a)).dtype == "fp32"
    assert work(op("aten.mm.default", a, a, out=a, allow_tf32=True)).dtype == "tf32"


def test_lstm_reads_recurrent_weights_at_every_step():
    # one layer, 35 steps, batch 20, input 200, hidden 200: w_ih [800, 200] once over all steps, w_hh per step
    x, hx = t(35, 20, 200, dtype="float32"), t(1, 20, 200, dtype="float32")
    w = (t(800, 200, dtype="float32"), t(800, 200, dtype="float32"), t(800, dtype="float32"), t(800, dtype="float32"))
    call = op("aten._cudnn_rnn.default", x, w, 4, None, hx, hx, 2, 200, 0, 1, False, 0.0, True, False, (), None,
              out=(x, hx, hx))  # fmt: skip
    task = work(call)
    assert task.flop == 2 * 35 * 20 * (800 * 200 + 800 * 200)
    assert task.kernels == 36 + 35
    assert task.bytes_read > 34 * 800 * 200 * 4


def test_an_lstm_of_packed_data_has_as_many_steps_as_the_longest_sequence():
    """Three sequences of 3, 2 and 1: three steps, of 3, 2 and 1 of them; each row was taken for a step of its own."""
    x, hx = t(6, 200, dtype="float32"), t(1, 3, 200, dtype="float32")
    w = (t(800, 200, dtype="float32"), t(800, 200, dtype="float32"), t(800, dtype="float32"), t(800, dtype="float32"))
    call = op("aten._cudnn_rnn.default", x, w, 4, None, hx, hx, 2, 200, 0, 1, False, 0.0, True, False, (3, 2, 1), None,
              out=(x, hx, hx))  # fmt: skip
    back = op("aten._cudnn_rnn_backward.default", x, w, 4, None, hx, hx, x, x, hx, hx, 2, 200, 0, 1, False, 0.0, True,
              False, (3, 2, 1), None, out=(x, hx, hx))  # fmt: skip
    assert [product.m for product in work(call).gemm] == [6, 3, 2, 1]
    assert work(call).flop == 2 * 6 * (800 * 200 + 800 * 200)
    assert work(call).kernels == 4 + 3
    assert (work(back).flop, work(back).kernels) == (2 * work(call).flop, 2 * 7)


def test_causal_attention_counts_half():
    q = t(12, 12, 1024, 64)
    lse = t(12, 12, 1024, dtype="float32")
    call = op("aten._scaled_dot_product_flash_attention.default", q, q, q, 0.0, True, out=(q, lse))
    # 4 * 12*12 * 1024^2 * 64 / 2
    assert work(call).flop == 2 * 144 * 1024**2 * 64
    assert work(call).attention.causal


def test_grouped_products_split_evenly():
    # 128 tokens over 8 experts [8, 64, 32]: 16 each
    call = op("aten._grouped_mm.default", t(128, 64), t(8, 64, 32), t(8, dtype="int32"), out=t(128, 32))
    assert work(call).gemm == (Gemm(8, 16, 32, 64),)


def test_fft_and_factorisations():
    z = t(4, 1024, dtype="complex64")
    # 5 * n * log2(n) per line, 4 lines
    assert work(op("aten._fft_c2c.default", z, (1,), 0, True, out=z)).flop == 5 * 4 * 1024 * 10
    a = t(2, 100, 100, dtype="float32")
    assert work(op("aten.linalg_cholesky_ex.default", a, out=a)).flop == int(2 * 100**3 / 3)


def test_topk_reads_and_sort_moves():
    x = t(4, 1000, dtype="float32")
    small = t(4, 5, dtype="float32")
    select = work(op("aten.topk.default", x, 5, out=(small, t(4, 5, dtype="int64"))))
    assert select.bytes_read == 4 * x.nbytes
    order = work(op("aten.sort.default", x, -1, False, out=(x, t(4, 1000, dtype="int64"))))
    # four passes of 8 bits, keys of 4 and positions of 8 bytes
    assert order.bytes_read == 4 * (4 + 8) * 4000


def test_a_formula_is_registered_once():
    with pytest.raises(AssertionError, match="two formulas"):
        work_of("aten.mm")(lambda op: None)


def test_work_is_remembered_but_not_compared():
    one, two = add(4), add(4)
    work(one)
    assert one == two
    assert isinstance(two, Op)


def test_a_product_that_adds_to_wider_numbers_runs_in_the_dtype_of_its_operands():
    # main_grad (fp32 [4, 8]) += a (bf16 [4, 16]) @ b (bf16 [16, 8]): reads 32*4 + (64 + 128)*2 = 512 bytes, writes 128
    main = t(4, 8, dtype="float32")
    task = work(
        Op("aten.addmm.dtype_out", (main, t(4, 16), t(16, 8), "float32"), (("out", main),), (), (3,)),
    )
    assert (task.dtype, task.gemm, task.flop) == ("bf16", (Gemm(1, 4, 8, 16, "nn"),), 1024)
    assert task.bytes_written == 128


def test_an_encoder_layer_is_its_six_products():
    """2 sequences of 8 tokens, width 16, 4 heads of 4, hidden 64, fp16. flop 2mnk each: qkv 2*16*48*16 = 24,576; two
    products of 8 batches of heads 2*8*8*8*4 = 4,096 each; out 2*16*16*16 = 8,192; feed-forward 2*2*16*64*16 = 65,536.
    Bytes between kernels: (12*16*16 + 4*512 + 4*16*16) + 2*16*64 + 4*16*16 + 6*16*16 = 10,752 elements of 2 bytes."""
    x, w, b = t(2, 8, 16, dtype="float16"), t(16, 16, dtype="float16"), t(16, dtype="float16")
    qkv, qkv_bias = t(48, 16, dtype="float16"), t(48, dtype="float16")
    up, up_bias, down = t(64, 16, dtype="float16"), t(64, dtype="float16"), t(16, 64, dtype="float16")
    layer = op("aten._transformer_encoder_layer_fwd.default", x, 16, 4, qkv, qkv_bias, w, b, False, False, 1e-5,
               b, b, b, b, up, up_bias, down, b, out=x)  # fmt: skip
    found = work(layer)
    assert found.flop == 24_576 + 2 * 4_096 + 8_192 + 65_536
    operands = (2 * 256 + 768 + 48 + 256 + 16 + 4 * 16 + 1024 + 64 + 1024 + 16) * 2
    assert found.bytes_moved == operands + 10_752 * 2
    assert found.kernels == 13
    attention = op("aten._native_multi_head_attention.default", x, x, x, 16, 4, qkv, qkv_bias, w, b, out=(x, x))
    assert work(attention).flop == 24_576 + 2 * 4_096 + 8_192


def test_a_batch_norm_in_parts_passes_over_its_map_once_in_each():
    """A map [2, 4, 8, 8] of bf16 has 512 elements, 1,024 bytes; statistics of 4 channels in fp32 16 bytes, of 8 ranks 128."""
    x, channels, ranks = t(2, 4, 8, 8), t(4, dtype="float32"), t(8, 4, dtype="float32")
    stats = work(op("aten.batch_norm_stats.default", x, 1e-5, out=(channels, channels)))
    assert (stats.bytes_read, stats.bytes_written, stats.flop, stats.kernels) == (1024, 32, 4 * 512, 1)
    # means and deviations of 8 ranks and 8 counts: 128 + 128 + 32; the map is not read
    counts = t(8, dtype="float32")
    gather = op("aten.batch_norm_gather_stats_with_counts.default", x, ranks, ranks, None, None, 0.1, 1e-5, counts,
                out=(channels, channels))  # fmt: skip
    assert (work(gather).bytes_read, work(gather).bytes_written) == (288, 32)
    apply = work(op("aten.batch_norm_elemt.default", x, channels, channels, channels, channels, 1e-5, out=x))
    assert (apply.bytes_read, apply.bytes_written, apply.flop, apply.kernels) == (1024 + 4 * 16, 1024, 4 * 512, 1)
    backward = op("aten.batch_norm_backward_reduce.default", x, t(2, 4, 8, 8), channels, channels, channels, True, True,
                  True, out=(channels,) * 4)  # fmt: skip
    assert (work(backward).bytes_read, work(backward).flop, work(backward).known) == (2 * 1024 + 3 * 16, 4 * 512, True)


@pytest.mark.parametrize(("name", "weight"), [("aten._weight_int8pack_mm.default", t(512, 1024, dtype="int8")),
                                              ("aten._weight_int4pack_mm.default", t(64, 32, 32, 4, dtype="int32"))])  # fmt: skip
def test_a_weight_of_few_bits_is_read_as_it_is_and_multiplied_in_what_it_meets(name, weight):
    """n was taken for k, which was right of square weights alone."""
    found = work(op(name, t(4, 1024), weight, t(512), out=t(4, 512)))
    assert (found.gemm[0][:4], found.dtype, found.unit) == ((1, 4, 512, 1024), "bf16", "matrix")
    assert found.bytes_moved == 2 * (4 * 1024 + 512 + 4 * 512) + weight.nbytes
