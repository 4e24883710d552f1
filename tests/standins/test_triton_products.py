"""What products a Triton kernel's source tells of."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from anychip.standins.libraries import triton_products
from anychip.standins.libraries.triton import MODULES, constexpr, jit
from anychip.standins.libraries.triton_products import products
from tests.standins.recorded import Recorded

tl: Any = ModuleType("triton.language")
vars(tl).update(MODULES["triton.language"])
TENSOR = torch.empty(4)
DEPTH = constexpr(32)


def multiply(a, b, c, M, N, K, ROWS: int, COLUMNS: int) -> None:  # type: ignore[no-untyped-def]
    program = tl.program_id(axis=0).to(tl.int64)
    row, column = program // tl.cdiv(N, COLUMNS), program % tl.cdiv(N, COLUMNS)
    rows, columns = row * ROWS + tl.arange(0, ROWS), column * COLUMNS + tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for at in range(0, tl.cdiv(K, DEPTH)):
        left = tl.load(a + rows[:, None] * K + (at * DEPTH + deep)[None, :])
        right = tl.load(b + columns[:, None] * K + (at * DEPTH + deep)[None, :])
        total += tl.dot(left, right.T)
    tl.store(c + rows[:, None] * N + columns[None, :], total)


@jit
def scores(query, key):  # type: ignore[no-untyped-def]
    return tl.dot(query, tl.trans(key)) * 0.1


def attend(q, k, v, out, T, SIDE: int, WIDE: int, CAUSAL: bool = True) -> None:  # type: ignore[no-untyped-def]
    block = tl.program_id(0)
    if block * SIDE >= T:
        return
    query = tl.load(tl.make_block_ptr(q, (T, WIDE), (WIDE, 1), (block * SIDE, 0), (SIDE, WIDE), (1, 0)))
    total = tl.zeros([SIDE, WIDE], tl.float32)
    end = (block + 1) * SIDE if CAUSAL else T
    for _ in tl.range(0, end, SIDE):
        key = tl.load(tl.make_block_ptr(k, (T, WIDE), (WIDE, 1), (0, 0), (SIDE, WIDE), (1, 0)))
        share = scores(query, key)
        share = tl.exp(share - tl.max(share, axis=1)[:, None])
        total = tl.dot(share.to(tl.bfloat16), key, total)
    tl.store(out, total)


def symmetric(a, c, M, K, SIDE: int) -> None:  # type: ignore[no-untyped-def]
    """Of a product that is its own transpose the upper half, as Muon's kernels have it."""
    sides, program = tl.cdiv(M, SIDE), tl.program_id(0)
    row, column = tl.swizzle2d(program // sides, program % sides, sides, sides, 3)
    if row > column:
        return
    rows, columns = row * SIDE + tl.arange(0, SIDE), (column * SIDE + tl.arange(0, SIDE)) % M
    total = tl.zeros((SIDE, SIDE), dtype=tl.float32)
    for at in tl.range(0, tl.cdiv(K, SIDE)):
        deep = at * SIDE + tl.arange(0, SIDE)
        total = tl.dot(
            tl.load(a + rows[:, None] * K + deep[None, :]), tl.load(a + columns[None, :] * K + deep[:, None]), total
        )
    tl.store(c, total)


def packed(x, lengths, SIDE: int) -> None:  # type: ignore[no-untyped-def]
    for _ in range(tl.load(lengths + tl.program_id(0))):
        block = tl.load(x + tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :])
        tl.store(x, tl.dot(block, block))


def copy(x, out, SIDE: int) -> None:  # type: ignore[no-untyped-def]
    tl.store(out + tl.arange(0, SIDE), tl.load(x + tl.arange(0, SIDE)))


def dropped(q, out, T, seed, rate, SIDE: int = 16) -> None:  # type: ignore[no-untyped-def]
    """Products of a number that T tells, of what a seed drops; half of them where nothing is."""
    block, total = tl.load(q + tl.arange(0, SIDE)[:, None] + tl.arange(0, SIDE)[None, :]), tl.zeros((SIDE, SIDE))
    for at in range(0, T, SIDE):
        total += tl.dot(tl.where(tl.rand(seed + at, tl.arange(0, SIDE))[None, :] > rate, block, 0.0), block)
        if rate > 0:
            total += tl.dot(block, block)
    tl.store(out, total)


def odd(x, N, ZERO: int, SIDE: int = 16) -> None:  # type: ignore[no-untyped-def]
    """What Python cannot compute, in kernels that nobody launches so for long."""
    for at in range(0, N, ZERO):
        tl.store(x, tl.dot(tl.zeros((SIDE, SIDE)), tl.zeros((SIDE, SIDE))) + at)
    tl.store(x, tl.cdiv(N, ZERO))


def flop(of: tuple[tuple[int, ...], ...] | None) -> int:
    assert of is not None
    return sum(2 * times * m * n * k for times, m, n, k in of)


def test_a_loop_sums_up_one_product() -> None:
    bound = {"a": TENSOR, "b": TENSOR, "c": TENSOR, "M": 1024, "N": 2048, "K": 512, "ROWS": 128, "COLUMNS": 64}
    assert products(multiply, bound, (8 * 32,)) == ((8 * 32, 128, 64, 512),)


@pytest.mark.parametrize("heads", [1, 16, 1000])
def test_blocks_of_a_causal_attention_do_not_all_multiply_the_same(heads: int) -> None:
    """64 blocks of 64 queries see 1 to 64 blocks of keys, twice: scores and values. The last 16 programs have no queries."""
    bound = {"q": TENSOR, "k": TENSOR, "v": TENSOR, "out": TENSOR, "T": 4096, "SIDE": 64, "WIDE": 128}
    each = 2 * 64 * 64 * 128 * (64 * 65 // 2)
    assert flop(products(attend, bound, (80, heads))) == pytest.approx(2 * each * heads, rel=0.001)
    assert flop(products(attend, bound | {"CAUSAL": False}, (64, heads))) == 2 * 2 * 64 * heads * 64 * 64 * 64 * 128


def test_half_of_a_symmetric_product_is_half_of_it() -> None:
    """8 x 8 tiles, of which 36 are on or above the diagonal, whichever program has which."""
    found = flop(products(symmetric, {"a": TENSOR, "c": TENSOR, "M": 1024, "K": 512, "SIDE": 128}, (64,)))
    assert found == 36 * 2 * 128 * 128 * 512


def test_what_stands_in_memory_is_not_guessed() -> None:
    assert products(packed, {"x": TENSOR, "lengths": TENSOR, "SIDE": 64}, (8,)) is None
    assert products(copy, {"x": TENSOR, "out": TENSOR, "SIDE": 64}, (8,)) == ()


def test_a_number_that_decides_nothing_is_no_other_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed: each of thousands of launches took a tenth of a second."""
    gone_through: list[Any] = []
    run = triton_products._Program.run
    monkeypatch.setattr(triton_products._Program, "run", lambda *given: [gone_through.append(given), run(*given)][1])

    def launch(T: int, seed: int, rate: float) -> int:
        gone_through.clear()
        return flop(products(dropped, {"q": TENSOR, "out": TENSOR, "T": T, "seed": seed, "rate": rate}, (8,)))

    each = 8 * 2 * 16**3
    assert [launch(160, seed, 0.5) for seed in range(9)] == [2 * 10 * each] * 9
    assert not gone_through
    # what a number does decide is seen, before and after
    assert [launch(T, seed, 0.5) for seed, T in enumerate((320, 80, 160, 320))] == [
        each * 2 * n for n in (20, 5, 10, 20)
    ]
    assert [launch(160, 7, rate) for rate in (0.0, 0.1, 0.0)] == [10 * each, 2 * 10 * each, 10 * each]
    assert launch(160, 100, 0.5) == 2 * 10 * each


def test_what_no_chip_computes_is_not_told_and_ends_no_program() -> None:
    assert products(odd, {"x": TENSOR, "N": 64, "ZERO": 0}, (8,)) is None
    assert products(odd, {"x": TENSOR, "N": 0, "ZERO": 0}, (8,)) is None
    assert products(odd, {"x": TENSOR, "N": 64, "ZERO": 32}, (8,)) == ((8, 16, 16, 32),)


PROGRAM = """
    import json, sys
    import torch, triton
    import triton.language as tl

    @triton.jit
    def gram_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK, BLOCK), tl.float32)
        for k in range(0, n, BLOCK):
            x = tl.load(x_ptr + at[:, None] * n + (k + tl.arange(0, BLOCK))[None, :])
            total += tl.dot(x, x.T)
        tl.store(out_ptr + at[:, None] * n + at[None, :], total)

    x = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
    gram_kernel[lambda meta: (1024 // meta["BLOCK"],)](x, torch.empty_like(x), 1024, BLOCK=64)
    json.dump({}, open(sys.argv[1], "w"))
"""


def test_a_kernel_that_multiplies_is_priced_by_its_products(tmp_path: Path) -> None:
    """It was priced by the bytes of its tensors alone: Muon's, linear attention's, most of what a model spends its time on."""
    import textwrap

    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    task = Recorded(tmp_path / "program.py", tmp_path / "out.json").work("custom.triton.gram_kernel")
    assert task.flop == 16 * 2 * 64 * 64 * 1024
    assert task.unit == "matrix"
    assert task.known
    assert task.dtype == "bf16"
    assert task.bytes_moved == 2 * 1024 * 1024 * 2
