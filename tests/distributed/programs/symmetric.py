"""Collectives over symmetric memory: `symmetric.py ops|plain|fused|peer|put`."""

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symm_mem

(how,) = sys.argv[1:]
dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
name = dist.group.WORLD.group_name
layer = torch.nn.Linear(1024, 1024).cuda()
mine = symm_mem.empty(1024, 1024, dtype=torch.bfloat16, device="cuda")
handle = symm_mem.rendezvous(mine, dist.group.WORLD)
assert (handle.rank, handle.world_size, handle.buffer_size) == (rank, size, 2 << 20)
assert symm_mem.is_symm_mem_tensor(mine)
assert symm_mem.rendezvous(torch.empty(4, device="cuda"), name) is None
assert handle.get_buffer(rank, (512, 1024), torch.bfloat16, 1024).data_ptr() == mine[1].data_ptr()
tokens = torch.randn(1024, 8192, dtype=torch.bfloat16, device="cuda")
up = torch.randn(8192, 4096, dtype=torch.bfloat16, device="cuda")
down = torch.randn(4096, 8192, dtype=torch.bfloat16, device="cuda")
for _ in range(2):
    layer(torch.randn(8, 1024, device="cuda")).sum().backward()
    if how == "ops":
        summed = torch.ops.symm_mem.one_shot_all_reduce(mine, "sum", name)
        assert summed.shape == mine.shape
        torch.ops.symm_mem.two_shot_all_reduce_(mine, "sum", name)
        whole = symm_mem.empty(size * 1024, 1024, dtype=torch.bfloat16, device="cuda")
        torch.ops.symm_mem.multimem_all_gather_out(mine, name, whole)
        torch.ops.symm_mem.reduce_scatter_out(whole, name, False, mine)
        handle.barrier()
    elif how == "fused":
        _, (hidden,) = torch.ops.symm_mem.fused_all_gather_matmul(tokens, [up], 0, name)
        out = torch.ops.symm_mem.fused_matmul_reduce_scatter(hidden, down, "sum", 0, name)
        assert out.shape == tokens.shape
    elif how == "plain":
        whole = torch.empty(size * 1024, 8192, dtype=torch.bfloat16, device="cuda")
        dist.all_gather_into_tensor(whole, tokens)
        dist.reduce_scatter_tensor(torch.empty_like(tokens), whole @ up @ down)
    elif how == "peer":
        mine.copy_(handle.get_buffer((rank + 1) % size, (1024, 1024), torch.bfloat16))
    else:
        torch.ops.symm_mem.nvshmem_put(mine, (rank + 1) % size)
