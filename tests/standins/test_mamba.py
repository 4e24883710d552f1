"""mamba_ssm and causal_conv1d: values against the recurrence token by token, and what a block costs on a virtual chip."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from anychip.cost import Work, price_op, work
from anychip.cost.work import packet
from anychip.spec import load_chip
from anychip.standins.libraries import causal_conv1d, mamba_ops, mamba_ssm
from anychip.standins.libraries.mamba_scan import scanned
from tests.standins.recorded import Recorded

HERE = Path(__file__).parent
Tensor = torch.Tensor


def new(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32, requires_grad=True)


# Values ---------------------------------------------------------------------------------------------------------------


def by_token(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, starts: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The recurrence of arXiv:2405.21060, equation (1): s <- exp(dt A) s + dt B x, y = C s + D x; s is 0 at each start."""
    steps = F.softplus(dt + bias)
    heads = x.shape[2]
    B, C = (one.repeat_interleave(heads // one.shape[2], 2) for one in (B, C))
    state, out = torch.zeros(*x.shape[0::2], x.shape[3], B.shape[3]), []
    for t in range(x.shape[1]):
        state = state * 0 if t in starts else state
        step = steps[:, t, :, None, None]
        state = (step * A[:, None, None]).exp() * state + step * x[:, t, ..., None] * B[:, t, :, None]
        out.append((state * C[:, t, :, None]).sum(-1) + x[:, t] * D[:, None])
    return torch.stack(out, 1) * F.silu(z), state


@pytest.mark.parametrize("starts", [(0,), (0, 3, 8)], ids=["one sequence", "packed"])
@pytest.mark.parametrize("length", [12, 10], ids=["whole chunks", "a part of one"])
def test_the_scan_in_chunks_is_the_recurrence(length: int, starts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, dt, A, B, C = (
        new(2, length, 4, 3),
        new(2, length, 4),
        (-torch.rand(4)).requires_grad_(),
        new(2, length, 2, 5),
        new(2, length, 2, 5),
    )
    D, z, bias = new(4), new(2, length, 4, 3), new(4)
    numbers = torch.tensor([sum(t >= one for one in starts) - 1 for t in range(length)]).expand(2, -1)
    seq_idx = numbers if len(starts) > 1 else None
    args = (x, dt, A, B, C, D, z, bias)
    out, final = mamba_ops.mamba_chunk_scan_combined(
        x, dt, A, B, C, 4, D, z, bias, seq_idx=seq_idx, dt_softplus=True, return_final_states=True
    )
    wanted, state = by_token(*args, starts)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(final, state, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(out)
    for one, other in zip(
        torch.autograd.grad((out * weight).sum(), args), torch.autograd.grad((wanted * weight).sum(), args), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_scan_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    x, dt, A, B, C = new(1, 12, 2, 3), new(1, 12, 2), -torch.rand(2), new(1, 12, 1, 5), new(1, 12, 1, 5)
    how = (4, True, 0.0, None)
    whole, _, last = scanned(x, dt, A, B, C, None, None, None, None, None, *how)
    halves, state = [], None
    for part in (slice(0, 6), slice(6, 12)):
        given = (x[:, part], dt[:, part], A, B[:, part], C[:, part])
        out, _, state = scanned(*given, None, None, None, state, None, *how)
        halves.append(out)
    torch.testing.assert_close(torch.cat(halves, 1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


def test_mambas_scan_is_the_recurrence_and_a_step_of_it_is_the_update() -> None:
    torch.manual_seed(0)
    u, delta, A, B, C = new(2, 6, 7), new(2, 6, 7), -torch.rand(6, 4), new(2, 4, 7), new(2, 4, 7)
    D, z, bias = new(6), new(2, 6, 7), new(6)
    state, out = torch.zeros(2, 6, 4), []
    for t in range(7):
        given = (u[..., t], delta[..., t], A, B[..., t], C[..., t], D, z[..., t], bias, True)
        out.append(mamba_ops.selective_state_update(state := state.clone(), *given))
    got, last = mamba_ops.selective_scan_fn(u, delta, A, B, C, D, z, bias, True, return_last_state=True)
    torch.testing.assert_close(got, torch.stack(out, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, state, rtol=1e-4, atol=1e-5)
    step = F.softplus(delta[..., 0] + bias)  # from no state: s = dt B u, y = C s + D u
    first = (step * u[..., 0] * (B * C)[..., 0].sum(1, keepdim=True) + D * u[..., 0]) * F.silu(z[..., 0])
    torch.testing.assert_close(got[..., 0], first, rtol=1e-4, atol=1e-5)


def test_the_convolution_is_torchs_and_its_update_one_token_of_it() -> None:
    torch.manual_seed(0)
    x, weight, bias = new(2, 6, 9), new(6, 4), new(6)
    wanted = F.silu(F.conv1d(F.pad(x, (3, 0)), weight[:, None], bias, groups=6))
    out = causal_conv1d.causal_conv1d_fn(x, weight, bias, activation="silu")
    torch.testing.assert_close(out, wanted)
    state = torch.zeros(2, 6, 3)
    steps = [causal_conv1d.causal_conv1d_update(x[..., t], state, weight, bias, "silu") for t in range(9)]
    torch.testing.assert_close(torch.stack(steps, -1), wanted)


@pytest.mark.parametrize("before", [True, False])
def test_the_gated_norm_norms_each_group(before: bool) -> None:
    torch.manual_seed(0)
    x, z, weight = new(3, 8), new(3, 8), new(8)
    gate = F.silu(z)
    given = x if before else x * gate
    wanted = F.rms_norm(given.unflatten(-1, (2, 4)), (4,), eps=1e-6).flatten(-2) * weight
    got = mamba_ops.rmsnorm_fn(x, weight, None, z, 1e-6, 4, before)
    torch.testing.assert_close(got, wanted * gate if before else wanted)


def test_blocks_compute_the_same_by_the_short_and_the_long_way() -> None:
    torch.manual_seed(0)
    u = new(2, 10, 16)
    one = mamba_ssm.Mamba2(16, d_state=8, headdim=4, chunk_size=4, ngroups=2)
    short = one(u)
    one.use_mem_eff_path = False
    torch.testing.assert_close(short, one(u), rtol=1e-4, atol=1e-5)
    two = mamba_ssm.Mamba(16, d_state=4)
    short = two(u)
    two.use_fast_path = False
    torch.testing.assert_close(short, two(u), rtol=1e-4, atol=1e-5)


# On the chip ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(HERE / "programs" / "mamba.py", tmp_path_factory.mktemp("mamba") / "said.json")


def first(recorded: Recorded, name: str) -> Work:
    return work(next(op for op in recorded.program.ops if op.name == name))


def test_shapes_and_gradients_are_the_real_ones(mamba: Recorded) -> None:
    assert mamba.said["version"] == ["2.3.2.post1+anychip", "1.6.1+anychip"]
    for name in ("scan", "split", "selective", "conv", "Mamba", "Mamba2", "Mamba2 long"):
        given, grads, out, wanted = mamba.said[name]
        assert grads == given, name
        assert out == wanted, name


def test_the_scans_products_are_those_of_state_space_duality(mamba: Recorded) -> None:
    # batch 2, 512 tokens in 4 chunks of 128, 8 heads of 64 in 2 groups, 32 states
    assert first(mamba, "custom.mamba_ssm.bmm_chunk").flop == 2 * (2 * 4 * 2) * 128 * 128 * 32
    state = first(mamba, "custom.mamba_ssm.chunk_state")
    assert state.flop == 2 * (2 * 4 * 8) * 64 * 32 * 128
    # x 2*512*512 and B 2*512*64 in bfloat16; dt and its sums 2*512*8 each and the states 2*4*8*64*32 in float32
    assert state.bytes_moved == 2 * (524_288 + 65_536) + 4 * (2 * 8_192 + 131_072)
    # pairs of the chunk under its mask, and the state before it
    assert first(mamba, "custom.mamba_ssm.chunk_scan").flop == 2 * (2 * 4 * 8) * 128 * 64 * (64 + 32)
    assert (state.unit, state.dtype) == ("matrix", "bf16")


def test_a_scan_takes_what_was_measured_on_h100(tmp_path: Path) -> None:
    """Tokens a second of the five kernels by https://github.com/vllm-project/vllm/pull/27299, fitted at all its lengths."""
    h100 = load_chip("h100")
    ops = Recorded(HERE / "programs" / "scan_lengths.py", tmp_path / "said.json").ops
    kernels = [op for op in ops if op.name.startswith("custom.mamba_ssm")]
    assert len(kernels) == 3 * 5
    for n, (tokens, tokens_per_s) in enumerate([(4096, 12.06e6), (32768, 11.80e6), (262144, 10.82e6)]):
        forecast_s = sum(price_op(op, h100).time_s for op in kernels[5 * n : 5 * n + 5])
        assert forecast_s == pytest.approx(tokens / tokens_per_s, rel=0.11)


def test_convolution_and_selective_scan_cost_their_operations(mamba: Recorded) -> None:
    conv = first(mamba, "custom.causal_conv1d.fwd")
    # 2 x 96 x 40 outputs of 4 taps and SiLU; x and y once, 96 x 4 weights and 96 biases, 2 bytes each
    assert (conv.flop, conv.bytes_moved) == (2 * 96 * 40 * 12, 2 * (2 * 7_680 + 5 * 96))
    assert first(mamba, "custom.mamba_ssm.selective_scan").flop == 7 * 2 * 48 * 40 * 16


def test_a_block_keeps_its_first_products_result_and_the_scans(mamba: Recorded) -> None:
    # 1 x 256 tokens in bfloat16: zxbcdt 2*256 + 2*16 + 4 = 548, the scan's out 256, the block's 128; 1,024 bytes of A
    assert mamba.said["kept by Mamba2"] == 256 * 2 * (548 + 256 + 128) + 1_024
    # without the short way also the convolution's 288
    assert mamba.said["kept by Mamba2 long"] > mamba.said["kept by Mamba2"] + 256 * 2 * 288


def test_names_that_are_not_covered_say_so(mamba: Recorded) -> None:
    assert mamba.said["not covered"].startswith(
        "mamba_ssm is not installed, and anychip's stand-in for it does not cover"
    )


def test_tables_name_the_kernel_and_not_its_library_alone() -> None:
    assert packet("custom.mamba_ssm.chunk_scan") == "custom.mamba_ssm.chunk_scan"
    assert packet("aten.add_.Tensor") == "aten.add_"


def test_what_a_platform_has_in_place_of_a_library_is_not_said_where_its_file_does_not_know(mamba: Recorded) -> None:
    (told,) = (text for text in mamba.warnings if text.startswith("mamba_ssm"))
    assert told.startswith("mamba_ssm is not installed: its scans are priced")
