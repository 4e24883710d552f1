"""What runs hold: programs as other libraries hold memory, against sums by hand of what each adds."""

from collections import Counter

import pytest

from accuracy.held import HOLDING, from_shards, held_job, in_flight
from accuracy.plan import Plan, argv_of
from accuracy.recorder import Job
from accuracy.rows import Run
from anychip.cost.fusion import fuse
from anychip.record import Kind
from anychip.record.steps import find_steps
from anychip.timeline.memory import lives, memory

MIB = 1 << 20
SHAPE = {"layers": 4, "hidden": 1024, "heads": 8, "kv_heads": 8, "ffn": 4096, "vocab": 32768, "seq": 1024, "micro_batch": 1,
         "micro_batches": 4, "recompute": "full", "sharding": "optimizer", "steps": 2, "fusion": True}  # fmt: skip
PIPED = {**SHAPE, "pp": 2, "loss_in_place": True}


def ranks(recorder, num_chips=1, module=HOLDING, **options):
    return [fuse(one) for one in recorder.program(Job(argv_of(options), num_chips, module)).ranks]


def peak(recorder, num_chips=1, module=HOLDING, **options):
    return [memory(one).peak_bytes for one in ranks(recorder, num_chips, module, **options)]


def plan_of(options, **how):
    return Plan(Run("x-1", ("x-1",), {}, {"memory_gib": 1.0}), "nvidia-h100-sxm", 8, options, (), **how)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"micro_batches": 64}, 2),  # gradients add up
        ({"micro_batches": 1}, 1),
        ({"micro_batches": 64, "pp": 4}, 4),  # on the first of four stages
        ({"micro_batches": 64, "pp": 4, "vp": 3}, 8),  # and of interleaved ones, whose number goes into the stages
    ],
)
def test_as_many_micro_batches_as_are_in_flight(options, most):
    assert in_flight(options) == most


def test_all_layers_are_recorded():
    job = held_job(plan_of({**SHAPE, "layers": 80, "micro_batches": 64, "sharding": "fsdp"}))
    words = " ".join(job.argv)
    assert "--layers 80" in words
    assert "--micro-batches 2 " in words
    assert job.module == "accuracy.reference"


def test_flat_buffers_are_of_a_library_with_its_own_pipeline_and_loss():
    job = held_job(plan_of(PIPED))
    assert job.module == HOLDING
    assert "--loss-in-place" in job.argv
    assert job.argv[job.argv.index("--received") + 1] == "flying"


def test_a_run_without_memory_has_no_recording_more():
    assert held_job(Plan(Run("x-1", ("x-1",), {}, {"step_time_s": 1.0}), "nvidia-h100-sxm", 8, PIPED, ())) is None


def test_too_much_is_left_to_the_fold():
    assert held_job(plan_of({**SHAPE, "layers": 126, "pp": 16, "vp": 8, "micro_batches": 512, "experts": 8})) is None


def test_what_a_stage_receives_is_held_while_in_flight(recorder):
    # Of the first of two stages, eight micro-batches of 8192 tokens: gradients of [8192, 1, 1024] in 16 bit, 16 MiB each, received
    # one at a time instead of into eight buffers: 7 x 16 MiB fewer.
    options = {**PIPED, "seq": 8192, "micro_batches": 8}
    always, flying = (peak(recorder, 2, **options, received=how)[0] for how in ("always", "flying"))
    assert always - flying == pytest.approx(7 * 16 * MIB, rel=0.01)


def test_the_loss_in_place_holds_one_copy_in_32_bit(recorder):
    # Logits of [1024, 32768]: 64 MiB in 16 bit, 128 in 32. The reference's backward begins with the logits, their softmax and two
    # gradients in 32 bit (64 + 3 x 128); in place, with one of 32 bit, the gradient in 16 and the input's: 64 + 128 or little more.
    own, in_place = (peak(recorder, **SHAPE, loss_in_place=how)[0] for how in (False, True))
    assert 190 * MIB < own - in_place < 260 * MIB


def test_eager_loss_parallel_has_four_copies_in_32_bit(recorder):
    # Of two tensor ranks, logits [1024, 16384]: 64 MiB in 32 bit. The backward holds the softmax's logarithm, the target's part,
    # the softmax and their sum; the reference's the shares, their gradient and its copy in 16 bit (32 MiB).
    options = {**SHAPE, "sharding": "fsdp", "tp": 2, "sequence_parallel": True}
    own, parallel = (peak(recorder, 4, **options, loss_parallel=how)[0] for how in (False, True))
    assert parallel - own > 30 * MIB


def test_loss_by_chunks_keeps_16_bit_where_compiled(recorder):
    # Eager: logits in 16 bit, and three of 32 (64 + 3 x 128 MiB). By 8 chunks, compiled: of all in 16 bit, 64 MiB, of one the
    # gradient, 8, and two gradients of the head's weight, 64 each, of which one is added to the other: 448 - 200 at least.
    options = {**SHAPE, "sharding": "plain"}
    eager = peak(recorder, module="accuracy.reference", **options)[0]
    chunked = peak(recorder, **options, fused_loss=True, loss_chunks=8)[0]
    assert eager - chunked > 100 * MIB


def test_kept_logits_are_in_32_bit(recorder):
    # As outputs in 32 bit until the next micro-batch's: 128 MiB of them, and 128 of their softmax, against 64 to 128 of it alone
    options = {**SHAPE, "sharding": "plain", "loss_chunks": 4}
    gone, kept = (peak(recorder, **options, kept_logits=how)[0] for how in (False, True))
    assert kept - gone > 30 * MIB


def test_weights_in_fp8_are_not_kept_for_the_backward(recorder):
    # Of 8 layers of 12 x 1024^2 weights, each once more as one byte, turned, until its backward: 96 MiB.
    options = {
        **SHAPE,
        "sharding": "fsdp",
        "layers": 8,
        "micro_batches": 1,
        "dtype": "fp8",
        "recompute": "none",
        "received": "flying",
    }
    once, twice = (
        max(memory(from_shards(one)).peak_bytes for one in ranks(recorder, 2, **options, torchao=how))
        for how in (False, True)
    )
    assert once - twice > 40 * MIB


def test_per_op_recomputation_holds_as_much_in_fp8_as_in_16_bit(recorder):
    # Every second product is kept, in 16 bit, whatever its operands are cast to: 8 layers of 8192 tokens and of products of
    # 1024 x 3, 1024, 4096 and 1024 columns keep 8 x 8192 x (1024 + 1024 + 4096) x 2 bytes, 768 MiB, in either.
    options = {**SHAPE, "sharding": "fsdp", "layers": 8, "micro_batches": 1, "recompute": "ops", "vocab": 1024, "seq": 8192,
               "separate": True, "compile": "layers", "fusion": False, "received": "flying"}  # fmt: skip
    wide, low = (
        max(memory(from_shards(one)).peak_bytes for one in ranks(recorder, 2, **options, **how))
        for how in ({"dtype": "bf16"}, {"dtype": "fp8", "torchao": True})
    )
    assert low == pytest.approx(wide, rel=0.05)


def test_attention_written_out_in_16_bit_keeps_a_softmax_of_half_the_size(recorder):
    # Of 4 layers, 8 heads and 1024 x 1024 scores each: 2 bytes fewer, 4 x 16 MiB; GELU written out keeps three tensors of
    # [1024, 4096] more, 4 x 24 MiB; the loss has its softmax and two gradients in 16 bit and keeps the logits, 4 x 64 MiB, instead
    # of the three in 32 bit alone, 3 x 128.
    options = {**SHAPE, "sharding": "plain", "micro_batches": 1, "recompute": "none", "attention": "products", "dropout": 0.1,
               "fusion": False, "bias": True, "received": "flying"}  # fmt: skip
    wide, narrow = (peak(recorder, **options, mingpt=how)[0] for how in (False, True))
    assert wide - narrow == pytest.approx((4 * 16 - 4 * 24 + 3 * 128 - 4 * 64) * MIB, rel=0.01)


def test_whole_weights_that_are_sharded_before_the_first_step_are_not_held(recorder):
    # 4 layers and two tables in 32 bit are (4 x 12 x 1024^2 + 2 x 32768 x 1024) x 4 bytes, 448 MiB: on one of 64 ranks most of
    # what there ever is, while it is built there, which libraries do on the meta device.
    options = {**SHAPE, "sharding": "fsdp", "micro_batches": 1, "seq": 64, "received": "flying"}
    (one,) = ranks(recorder, 64, **options)
    whole = (4 * 12 * 1024**2 + 2 * 32768 * 1024) * 4
    assert memory(one).peak_bytes > whole
    assert memory(from_shards(one)).peak_bytes < memory(one).peak_bytes


def test_deepspeed_keeps_16_bit_gradients_beside_those_of_32(recorder):
    # 2 bytes for each of the stage's parameters more: of the first, 2 layers of 12 x 1024^2 and the embedding of 32768 x 1024
    # (and norms); the widened gradient of the embedding is gone before the peak
    weights = 2 * 12 * 1024**2 + 32768 * 1024
    plain, deep = (
        sum(of.size[(of.died >= one.tape.size)]) for how in (False, True)
        for one in ranks(recorder, 2, **PIPED, received="flying", deepspeed=how)[:1] for of in (lives(one),)
    )  # fmt: skip
    assert deep - plain == pytest.approx(2 * weights, rel=0.01)


def test_moments_that_come_late_are_not_in_the_first_passes(recorder):
    # The last of two stages holds most in its passes, and after the first step 8 bytes for each of its parameters more
    early, late = (peak(recorder, 2, **{**PIPED, "steps": 1}, late_moments=how)[0] for how in (False, True))
    assert early > late


PACKED = {**SHAPE, "sharding": "plain", "micro_batches": 1, "recompute": "none", "lora_rank": 8, "lora_on": "all", "fusion": False,
          "received": "flying"}  # fmt: skip


def test_frozen_weights_of_four_bits_hold_a_scale_for_64_and_are_made_wide_for_each_product(recorder):
    # 4 layers of 12 x 1024^2: from 2 bytes to 1/2 and 4/64. Wide again is one at a time, 4096 x 1024 x 2 bytes at most.
    (wide,), (packed,) = (ranks(recorder, **PACKED, **how) for how in ({}, {"frozen_4bit": "layers"}))
    fewer = 4 * 12 * 1024**2 * (2 - 0.5 - 4 / 64)
    less = memory(from_shards(wide)).peak_bytes - memory(from_shards(packed)).peak_bytes
    assert fewer - 2 * 8 * MIB < less <= fewer
    made_wide = sum(times for op, times in calls(packed).items() if op.endswith("dequantize_4bit"))
    assert made_wide == 2 * (2 * 4 * 4)  # steps; forward and backward, layers, products


def calls(program):
    kinds, payloads = program.kinds, program.payloads
    return Counter(program.ops[n].name for n in payloads[kinds == int(Kind.OP)])


def test_lightning_packs_the_head_too_and_its_products_keep_their_inputs(recorder):
    # The head's 32768 x 1024 from 2 bytes to 1/2 and 4/64. In a step it is 2 x 64 MiB wide at a time, in fp16 and in bf16, and each
    # layer keeps four inputs, of which the second product's has 4096 columns.
    programs = [
        one for how in ("layers", "lightning")
        for one in ranks(recorder, **PACKED, loss_chunks=4, kept_logits=True, frozen_4bit=how)
    ]  # fmt: skip
    before = [weights_bytes(one) for one in programs]
    assert before[0] - before[1] == pytest.approx(32768 * 1024 * (2 - 0.5 - 4 / 64), rel=0.01)
    beside = [memory(from_shards(one)).peak_bytes - held for one, held in zip(programs, before, strict=True)]
    assert beside[1] - beside[0] > 4 * 1024 * 4096 * 2


def weights_bytes(program):
    """Alive when the first forward begins."""
    all_lives, first = lives(program), find_steps(program)[0].forwards[0]
    return sum(all_lives.size[(all_lives.born < first) & (all_lives.died > first)])
