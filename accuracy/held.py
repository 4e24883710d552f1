"""What a run holds at most: of a recording of its own, as deep as the run, with as many micro-batches as are in flight at once.

Time is put together from short recordings (`fold`), for it is a sum. A peak is not: where it lies changes with depth, and what an
allocator reserves beyond it does not grow with it. So memory is read where it is: at the fullest rank of all layers. Only runs
that publish memory are recorded so.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from accuracy.plan import Plan, argv_of
from accuracy.recorder import HOLDING, STEPS, Job, Recorder
from anychip.cost.fusion import fuse_ranks
from anychip.memory import NO_LIMIT, replay
from anychip.record import Program
from anychip.record.steps import find_steps
from anychip.timeline.memory import lives, memory

MEMORY = "memory_gib"  # of a run's metrics
MOST = 6000  # layers times micro-batches: what is recorded in a few minutes; beyond it the folded recordings have to do
ROUTED = 3  # a layer with experts takes so many times as long to record


def held_job(plan: Plan) -> Job | None:
    """What to record, of the reference transformer whichever program the run's time is of; None where the run publishes no memory,
    or it is too much, and the fold's figure stands."""
    if MEMORY not in plan.run.metrics:
        return None
    options = {**plan.options, "micro_batches": in_flight(plan.options), "steps": STEPS, **plan.holds}
    effort = options["layers"] * options["micro_batches"] * (ROUTED if options.get("experts") else 1)
    if effort > MOST:
        return None
    if options["sharding"] not in ("plain", "fsdp"):  # flat buffers are Megatron-LM's and DeepSpeed's
        options |= {"loss_in_place": True, "received": "flying"}
    elif options.get("tp", 1) > 1 and not options.get("fused_loss"):
        options["loss_parallel"] = True
    is_own = options.keys() - plan.options.keys() - {"steps"}
    return Job(argv_of(options), plan.num_chips, HOLDING if is_own or plan.program == HOLDING else Plan.program)


def in_flight(options: Mapping[str, Any]) -> int:
    """Micro-batches from which on no more are held: those in flight on the first stage, or two where gradients add up."""
    stages = options.get("pp", 1)
    most = 2 if stages == 1 else stages * (2 if options.get("vp", 1) > 1 else 1)
    return int(min(options["micro_batches"], most))


def most_bytes(recorder: Recorder, plan: Plan, job: Job) -> float:
    """Of the fullest rank, as the source counts (`Plan.memory`). Raises RuntimeError where the program failed."""
    programs = fuse_ranks(recorder.program(job))
    if plan.options["sharding"] == "fsdp" or "frozen_4bit" in plan.options:
        programs = [from_shards(one) for one in programs]
    return max(counted(one, plan) for one in programs)


def from_shards(program: Program) -> Program:
    """Without what is gone before the first forward: whole and wide weights. Libraries that shard them make them on the meta
    device, those that pack them pack one after another."""
    steps = find_steps(program)
    if not steps or not steps[0].forwards:
        return program
    all_lives = lives(program)
    gone = all_lives.died < steps[0].forwards[0]
    kept = np.ones(program.tape.size, bool)
    kept[all_lives.born[gone]] = kept[all_lives.died[gone]] = False
    return replace(program, tape=program.tape[kept])


def counted(program: Program, plan: Plan) -> float:
    """allocated: what tensors take. reserved: what the allocator has taken for them. device: that and the driver's own."""
    if plan.memory == "allocated":
        return memory(program).peak_bytes
    beside = plan.context_bytes if plan.memory == "device" else 0
    return replay(program, NO_LIMIT, plan.allocator).reserved_bytes + beside


def held_key(plan: Plan, job: Job) -> str:
    return json.dumps([job.key, plan.memory, plan.allocator, plan.context_bytes])
