"""What virtual ranks issue is what real processes issue: two of them, over gloo."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.record import Kind, Program, TensorMeta
from anychip.spec import load_chip

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "train_fsdp_cuda.py"
SIZE = {
    "layers": 2,
    "width": 64,
    "hidden": 128,
    "heads": 4,
    "kv-heads": 2,
    "vocabulary": 256,
    "context": 32,
    "steps": 2,
}


def leaves(value: object) -> list[TensorMeta]:
    if isinstance(value, TensorMeta):
        return [value]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, tuple) else []


def issued(program: Program) -> Counter[tuple[str, int]]:
    ops = [program.ops[op] for op in program.payloads[program.kinds == Kind.OP]]
    return Counter(
        (op.name.split(".")[1], sum(one.nbytes for one in leaves(op.args[1])))
        for op in ops
        if op.name.startswith("c10d.")
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--tp", "2"]], ids=["sharded", "tensor parallel"])
def test_as_two_real_processes(tmp_path: Path, how: list[str]) -> None:
    arguments = [str(EXAMPLE), *(word for name, size in SIZE.items() for word in (f"--{name}", str(size))), *how]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, str(HERE / "programs" / "counted.py"), str(tmp_path), *arguments, "--device", "cpu"],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    program = record(arguments, load_chip("h100"), world_size=2, devices=2, steps=99, ranks="all", show_output=False)
    for one in program.ranks:
        for rank in one.members:
            real = Counter((name, nbytes) for name, nbytes in json.loads((tmp_path / f"{rank}.json").read_text()))
            # On a chip, not on a CPU, ranks that draw random numbers together are told the first one's seed.
            assert issued(one) - Counter({seed: 1 for seed in issued(one) if seed[0] == "broadcast_"}) == real
            assert sum(real.values()) >= 20
