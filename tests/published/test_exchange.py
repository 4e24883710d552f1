"""A sequence split over ranks, exchanged for heads, with real numbers over gloo."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from accuracy.reference.fused import to_heads, to_tokens
from anychip.device.launch import record
from anychip.spec import load_chip

RANKS, CHUNK, HEADS = 2, 3, 4


def one_rank(rank, store):
    torch.set_num_threads(1)  # those of the process that this one was forked from are none here
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    early, late = rank, 2 * RANKS - 1 - rank  # as much to do for all: an early and a late chunk each
    tokens = torch.cat([torch.arange(at * CHUNK, (at + 1) * CHUNK) for at in (early, late)])
    mine = (100 * torch.arange(HEADS) + tokens[:, None]).float()[:, None, :, None].expand(-1, 3, -1, 5)
    for dtype in (torch.float32, torch.uint8):
        sent = mine.to(dtype)
        (whole,) = to_heads([sent], dist.group.WORLD)
        heads = torch.arange(HEADS).chunk(RANKS)[rank]
        wanted = (100 * heads + torch.arange(2 * RANKS * CHUNK)[:, None]).float()[:, None, :, None].expand(-1, 3, -1, 5)
        assert torch.equal(whole, wanted.to(dtype))
        (back,) = to_tokens([whole], dist.group.WORLD)
        assert torch.equal(back, sent)
    dist.destroy_process_group()


def test_each_rank_gets_all_tokens_of_its_heads_in_order_and_gives_them_back(tmp_path):
    mp.start_processes(one_rank, args=(tmp_path / "store",), nprocs=RANKS, start_method="fork")


def test_of_fewer_key_heads_than_ranks_each_is_given_to_several():
    """A run with two of them and sequences split over eight was no program: its heads did not divide."""
    argv = "--layers 1 --hidden 64 --heads 8 --kv-heads 2 --ffn 64 --vocab 64 --seq 64 --steps 1 --cp 4 --cp-comm-type a2a --attention flash"
    program = record(
        ["accuracy.reference", *argv.split()], load_chip("h100"), module=True, world_size=4, show_output=False
    )
    (keys,) = {op.args[1].shape for op in program.ops if op.name == "aten._scaled_dot_product_flash_attention.default"}
    assert keys == (1, 1, 64, 8)  # the one that the two heads of queries which a rank has share
