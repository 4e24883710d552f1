"""Ranks tell one another what decides their work: sizes in small tensors, objects, a key-value store."""

import torch
import torch.distributed as dist

dist.init_process_group("cpu:gloo,cuda:nccl")
rank, size = dist.get_rank(), dist.get_world_size()
width = 48
if rank == 0:
    dist.send(torch.tensor([48, 7], device="cuda"), dst=1)
    dist.send_object_list([{"width": 96}], dst=1)
elif rank == 1:
    shape = torch.zeros(2, dtype=torch.int64, device="cuda")
    dist.recv(shape, src=0)
    objects = [None]
    dist.recv_object_list(objects, src=0)
    assert objects == [{"width": 96}]
    width = int(shape[0])
    assert shape.tolist() == [48, 7]
chosen = ["from zero" if rank == 0 else None]
dist.broadcast_object_list(chosen, src=0)
assert chosen == ["from zero"]
store = dist.TCPStore("localhost", 29501, size, rank == 0)
store.set(f"address of {rank}", "here")
assert store.get(f"address of {(rank + 1) % size}") == b"here"
gathered = [torch.zeros(2, device="cuda") for _ in range(size)]
dist.all_gather(gathered, torch.tensor([1.0, 2.0], device="cuda"))
assert [one.tolist() for one in gathered] == [[1.0, 2.0]] * size
host = torch.ones(3)
dist.all_reduce(host)
assert host.tolist() == [size] * 3
model = torch.nn.Linear(width, 8).cuda()
for _ in range(3):
    model(torch.randn(4, width, device="cuda")).sum().backward()
    model.zero_grad()
