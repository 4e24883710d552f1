"""Starts its own ranks: `spawned.py spawn|elastic|fork|left|told`; elastic: by torch's own launcher, as accelerate's notebook_launcher
does; left: each spawned for itself, and not waited for; told: the program waits
for what each tells it at its end."""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def train(rank, world_size):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "12355"}
    dist.init_process_group("nccl", rank=rank, world_size=world_size)
    torch.cuda.set_device(rank)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64).cuda(rank), device_ids=[rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(8, 64, device=f"cuda:{rank}")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    dist.destroy_process_group()


def launched(world_size):
    train(int(os.environ["LOCAL_RANK"]), world_size)
    return world_size


def told(rank, world_size, results):
    for _ in range(9):  # more steps than are recorded
        train(rank, world_size)
    results.put(rank)


if __name__ == "__main__":
    size = torch.cuda.device_count()
    if sys.argv[1] == "spawn":
        mp.spawn(train, args=(size,), nprocs=size, join=True)
    elif sys.argv[1] == "elastic":
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=size, rdzv_backend="c10d", rdzv_endpoint="localhost:0"
        )
        assert elastic_launch(config, launched)(size)[0] == size
    elif sys.argv[1] == "left":
        mp.set_start_method("spawn")
        for rank in range(size):
            mp.Process(target=train, args=(rank, size)).start()
    elif sys.argv[1] == "told":
        mp.set_start_method("spawn")
        results = mp.Queue()
        for rank in range(size):
            mp.Process(target=told, args=(rank, size, results)).start()
        print([results.get(timeout=60) for _ in range(size)])
    else:
        processes = [mp.Process(target=train, args=(rank, size)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
