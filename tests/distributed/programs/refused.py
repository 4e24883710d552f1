"""Calls that torch refuses on a real chip, each with what it says; and objects among groups that a rank is not in."""

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
alone = [dist.new_group([one]) for one in range(2)]
own, others = alone[rank], alone[1 - rank]


def x(size):
    return torch.ones(size, device="cuda")


def exchanged(received, sent):
    return lambda: dist.all_to_all_single(x(6), x(6), received, sent)


REFUSED = [
    (lambda: dist.broadcast(x(4), src=5), "invalid root rank: 5"),
    (lambda: dist.reduce_scatter_tensor(x(2), x(5)), "input tensor must be the same size as output size times world"),
    (lambda: dist.all_gather_into_tensor(x(11), x(5)), "output tensor size must be equal to world_size times"),
    (lambda: dist.all_gather([x(4)] * 3, x(4)), "must match number of collective participants but got 3 outputs"),
    (
        lambda: dist.all_reduce(torch.eye(3, device="cuda").to_sparse()),
        "does not support all_reduce with sparse tensors",
    ),
    (exchanged([3, 3], [2, 3]), "Split sizes doesn't match total dim 0 size"),
    (exchanged([6], None), "Number of tensor splits not equal to group size"),
    (
        lambda: dist.all_to_all_single(x(5), x(6), None, [3, 3]),
        "Tensor's dim 0 does not divide equally across group size",
    ),
    (lambda: dist.gather_object(rank, [None, None], dst=1 - rank), "must NOT be specified on non-destination ranks"),
    (lambda: dist.gather_object(rank, None, dst=rank), "must be specified on destination rank"),
    (lambda: dist.broadcast_object_list([rank], src=7), "invalid root rank: 7"),
    (lambda: dist.broadcast_object_list([rank], src=1 - rank, group=own), "is not part of group"),
    (lambda: dist.send_object_list([1], dst=rank), "should not be the same as the rank of the current process"),
]
for call, told in REFUSED:
    said = "nothing"
    try:
        call()
    except (RuntimeError, ValueError) as error:
        said = str(error)
    assert told in said, (told, said)

row = x(8).reshape(1, 8)
dist.all_to_all_single(torch.empty_like(row), row)  # half a row for each, which NCCL takes

assert others is dist.GroupMember.NON_GROUP_MEMBER
found = [None]
dist.all_gather_object(found, rank, group=others)
dist.gather_object(rank, None, group=others)
dist.broadcast_object_list(found, src=1 - rank, group=others)
dist.scatter_object_list(found, src=1 - rank, group=others)
assert found == [None]
dist.all_gather_object(found, rank, group=own)
assert found == [rank]
dist.broadcast_object_list(found, group_src=1)
assert found == [1]
dist.scatter_object_list(found, ["a", "b"] if rank == 0 else None)
assert found == ["ab"[rank]]
