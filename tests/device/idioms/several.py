"""Idioms of programs that drive several chips from one process; run with four."""

# ruff: noqa: PT018

import torch
from idiom import idiom, main, raises
from torch import nn


@idiom("several devices", 'f"cuda:{i}"', '"cuda:N" literal')
def devices() -> None:
    assert torch.cuda.device_count() == torch.accelerator.device_count() == 4
    for index in range(4):
        x = torch.ones(2, device=f"cuda:{index}", requires_grad=True)
        (x * x).sum().backward()
        assert x.get_device() == index and x.grad.device.index == index
    raises(
        RuntimeError, lambda: torch.ones(2, device="cuda:0") + torch.ones(2, device="cuda:1"), "at least two devices"
    )
    assert torch.ones(2, device="cuda:1").to("cuda:3").device.index == 3


@idiom("torch.cuda.set_device, several")
def current() -> None:
    torch.cuda.set_device(2)
    assert torch.zeros(1, device="cuda").get_device() == torch.zeros(1).cuda().get_device() == 2
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == 1 and torch.zeros(1).cuda().get_device() == 1
    assert torch.cuda.current_device() == 2
    with torch.cuda.device_of(torch.zeros(1, device="cuda:3")):
        assert torch.cuda.current_device() == 3
    torch.cuda.set_device(0)
    raises(Exception, lambda: torch.cuda.set_device(4), "invalid device ordinal")
    assert len(torch.cuda.get_rng_state_all()) == 4 and torch.cuda.can_device_access_peer(0, 1)


@idiom("DataParallel, several")
def data_parallel() -> None:
    module = nn.DataParallel(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))).cuda()
    assert module.device_ids == [0, 1, 2, 3]
    optimizer = torch.optim.Adam(module.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        out = module(torch.randn(8, 4, device="cuda"))
        assert out.shape == (8, 2) and out.get_device() == 0
        nn.functional.cross_entropy(out, torch.zeros(8, dtype=torch.long, device="cuda")).backward()
        optimizer.step()
    assert next(module.parameters()).grad.get_device() == 0
    assert nn.DataParallel(nn.Linear(4, 4), device_ids=[0, 1]).cuda()(torch.randn(6, 4)).shape == (6, 4)


@idiom("torch.cuda.comm, several")
def comm() -> None:
    import torch.cuda.comm

    x = torch.arange(8.0, device="cuda:0").reshape(4, 2)
    parts = torch.cuda.comm.scatter(x, [0, 1], chunk_sizes=[1, 3])
    assert [(one.get_device(), one.shape[0]) for one in parts] == [(0, 1), (1, 3)]
    assert torch.cuda.comm.gather(parts, destination=2).tolist() == x.tolist()
    assert torch.cuda.comm.gather(parts, destination=-1).device.type == "cpu"
    assert [one.get_device() for one in torch.cuda.comm.broadcast(x, [0, 3])] == [0, 3]
    assert torch.cuda.comm.reduce_add([x, x.to("cuda:1")], 0).tolist() == (2 * x).tolist()


@idiom("pipeline of layers over devices")
def pipeline() -> None:
    first, second = nn.Linear(4, 4).to("cuda:0"), nn.Linear(4, 4).to("cuda:1")
    second(first(torch.randn(2, 4, device="cuda:0")).to("cuda:1")).sum().backward()
    assert first.weight.grad.get_device() == 0 and second.weight.grad.get_device() == 1


if __name__ == "__main__":
    main()
