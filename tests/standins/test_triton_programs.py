"""FLOP of Triton kernels that multiply blocks, from their source and what they are launched with."""

import textwrap

import pytest

from anychip.cost.price import price_op
from anychip.spec import load_chip
from tests.standins.recorded import Recorded

PROGRAM = """
    import torch, triton
    import triton.language as tl

    @triton.autotune([triton.Config({"M": 128, "N": 64, "K": 32, "GROUP": 8}, num_warps=4)], key=["rows"])
    @triton.jit
    def product(a_ptr, b_ptr, c_ptr, rows, columns, inner, stride, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
                GROUP: tl.constexpr, ACTIVATION: tl.constexpr):
        pid = tl.program_id(axis=0)
        tiles, across = tl.cdiv(rows, M), tl.cdiv(columns, N)
        group = pid // (GROUP * across)
        size = min(tiles - group * GROUP, GROUP)
        down = group * GROUP + (pid % size)
        tl.assume(pid >= 0)
        at_m = (down * M + tl.arange(0, M)) % rows
        at_n = (pid % across * N + tl.arange(0, N)) % columns
        at_k = tl.arange(0, K)
        a = a_ptr + at_m[:, None] * stride + at_k[None, :]
        b = b_ptr + at_k[:, None] * stride + at_n[None, :]
        total = tl.zeros((M, N), dtype=tl.float32)
        for k in range(0, tl.cdiv(inner, K)):
            total = tl.dot(tl.load(a, mask=at_k[None, :] < inner - k * K, other=0.0),
                           tl.load(b, mask=at_k[:, None] < inner - k * K, other=0.0), total)
            a += K
            b += K * stride
        if ACTIVATION == "leaky_relu":
            total = leaky(total)
        tl.store(c_ptr + at_m[:, None] * stride + at_n[None, :], total.to(tl.float16), mask=at_m[:, None] < rows)

    @triton.jit
    def leaky(x):
        return tl.where(x >= 0, x, 0.01 * x)

    @triton.jit
    def inside(total, most, q, K_at, V_at, begin, end, SIZE: tl.constexpr):
        K_at = tl.advance(K_at, (0, begin))
        for start in tl.range(begin, end, SIZE):
            scores = tl.dot(q, tl.load(K_at))
            scores = tl.where(start + tl.arange(0, SIZE)[None, :] > 0, scores, -1e6)
            larger = tl.maximum(most, tl.max(scores, 1))
            p = tl.math.exp2(scores - larger[:, None])
            total = total * tl.math.exp2(most - larger)[:, None]
            total = tl.dot(p.to(tl.float16), tl.load(V_at), total)
            most = larger
            K_at, V_at = tl.advance(K_at, (0, SIZE)), tl.advance(V_at, (SIZE, 0))
        return total, most

    @triton.jit
    def causal(Q, K, V, Out, scale, LENGTH: tl.constexpr, DIM: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
        block, head = tl.program_id(0), tl.program_id(1)
        base = (head * LENGTH).to(tl.int64) * DIM
        q_at = tl.make_block_ptr(Q + base, (LENGTH, DIM), (DIM, 1), (block * M, 0), (M, DIM), (1, 0))
        k_at = tl.make_block_ptr(base=K + base, shape=(DIM, LENGTH), strides=(1, DIM), offsets=(0, 0),
                                 block_shape=(DIM, N), order=(0, 1))
        v_at = tl.make_block_ptr(V + base, (LENGTH, DIM), (DIM, 1), (0, 0), (N, DIM), (1, 0))
        total = tl.zeros([M, DIM], dtype=tl.float32)
        most = tl.zeros([M], dtype=tl.float32) - float("inf")
        total, most = inside(total, most, tl.load(q_at), k_at, v_at, 0, (block + 1) * M, N)
        tl.store(q_at, total.to(Out.type.element_ty))

    @triton.jit
    def paged(Q, K, Out, lengths, SIZE: tl.constexpr):
        length = tl.load(lengths + tl.program_id(0))
        at = tl.arange(0, SIZE)
        total = tl.zeros((SIZE, SIZE), tl.float32)
        for _ in range(0, length, SIZE):
            total += tl.dot(tl.load(Q + at[:, None] + at[None, :]), tl.load(K + at[:, None] + at[None, :]))
        tl.store(Out + at[:, None] + at[None, :], total)

    @triton.jit
    def gram(X, Out, N, SIDE: tl.constexpr = 64):
        at = tl.arange(0, SIDE)
        block = tl.load(X + (tl.program_id(0) * SIDE + at)[:, None] * N + at[None, :])
        tl.store(Out + at[:, None] * N + at[None, :], tl.dot(block, block.T))

    a, b, c = (torch.empty(512, 512, device="cuda", dtype=torch.float16) for _ in range(3))
    product[lambda meta: (triton.cdiv(500, meta["M"]) * triton.cdiv(512, meta["N"]),)](a, b, c, 500, 512, 512, 512, ACTIVATION="leaky_relu")
    q, k, v, out = (torch.empty(2, 4, 1024, 64, device="cuda", dtype=torch.float16) for _ in range(4))
    causal[(1024 // 64, 8)](q, k, v, out, 0.5, 1024, 64, M=64, N=32)
    paged[(8,)](a, b, c, torch.zeros(8, dtype=torch.int32, device="cuda"), SIZE=64)
    gram[lambda meta: (512 // meta["SIDE"],)](a, b, 512)
"""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    path = tmp_path_factory.mktemp("triton") / "program.py"
    path.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    return Recorded(path, path.with_name("said.json"))


def test_a_grid_knows_what_parameters_are_where_a_launch_does_not_give_them(triton: Recorded) -> None:
    """KeyError: 'SIDE' ended the program."""
    assert triton.work("custom.triton.gram").flop == 8 * 2 * 64**3


def test_a_product_has_its_flop(triton: Recorded) -> None:
    # 4 * 8 programs of 16 turns of 128 x 64 x 32: all of 512 x 512 x 512, as tiles that are not full are multiplied whole
    task = triton.work("custom.triton.product")
    assert (task.flop, task.unit, task.dtype) == (2 * 512**3, "matrix", "fp16")
    assert price_op(triton.op("custom.triton.product"), load_chip("h100")).evidence != "bytes_only"


def test_loops_that_grow_along_the_grid_are_counted(triton: Recorded) -> None:
    """Attention by blocks: those of queries, and of keys up to the last of these."""
    blocks = sum(2 * (block + 1) for block in range(16))  # of 32 keys for 64 queries
    assert triton.work("custom.triton.causal").flop == 8 * blocks * 2 * (2 * 64 * 32 * 64)


def test_what_depends_on_numbers_that_are_loaded_is_by_bytes_alone(triton: Recorded) -> None:
    assert triton.work("triton.paged").flop == 0
    assert not triton.work("triton.paged").known
