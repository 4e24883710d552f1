"""Weights that a program makes on the host take no memory and no time; what it computes there is real."""

from tests.device.recorded import run

MODEL = """
    import copy, torch
    from torch import nn
    WIDTH = 8192
    def resident():  # GiB
        return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**30
    before = resident()
"""


def test_a_large_model_of_the_host_takes_none_of_its_memory() -> None:
    """6.7B parameters in 32 bit took 25 GiB, or the process its life."""
    program, out = run(f"""{MODEL}
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
            self.table = nn.Embedding(WIDTH, WIDTH, padding_idx=0)
            nn.init.trunc_normal_(self.up.weight, std=0.02)
            self.down.weight.data.normal_(0, 0.02).div_(4.0)
            nn.init.xavier_uniform_(nn.Parameter(torch.empty(WIDTH, WIDTH)))
        def forward(self, x):
            return self.down(self.up(x)) + self.table.weight[0]
    model = nn.Sequential(*(Block() for _ in range(4)))
    averaged = copy.deepcopy(model)
    averaged.load_state_dict(model.state_dict())
    model = model.bfloat16().cuda()
    took = resident() - before
    x = torch.randn(4, WIDTH, device="cuda", dtype=torch.bfloat16)
    model(x).sum().backward()
    out = [took < 1.0, averaged[0].up.weight.std().item(), all(one.is_leaf and one.dtype == torch.bfloat16 for one in model.parameters())]
    """)
    assert out == [True, 0.0, True]  # of 6 GiB, as many averaged, and 3 of bf16
    assert program.block_bytes.sum() > 4 * 3 * 8192**2 * 2


def test_what_is_no_weight_or_was_loaded_is_as_it_was_computed() -> None:
    _, out = run(f"""{MODEL}
    WIDTH = 4096
    data = torch.empty(WIDTH, WIDTH).normal_()
    small = nn.Linear(64, 64).weight
    loaded = nn.Embedding(WIDTH, WIDTH)
    loaded.load_state_dict({{"weight": data}})
    given = nn.Embedding.from_pretrained(data)
    part, layer = nn.Parameter(torch.empty(2 * WIDTH, WIDTH)), nn.Module()
    layer.weight = part
    part.data[WIDTH:].copy_(data)
    part.data[:WIDTH].uniform_()
    scaled = nn.Linear(WIDTH, WIDTH).weight
    with torch.no_grad():
        scaled.copy_(data).mul_(2.0)
    same = lambda one: torch.equal(one.double(), data.double())
    out = [
        0.9 < data.std().item() < 1.1, small.std().item() > 0, same(loaded.weight.data), same(given.double().weight), same(part.data[WIDTH:].clone()),
        same(scaled.data / 2), nn.Linear(WIDTH, WIDTH).weight.double().requires_grad,
    ]
    """)
    assert out == [True] * 7


def test_other_tensors_of_the_host_are_as_without() -> None:
    """Sparse ones have no number of bytes; transforms of torch.func and fake tensors no storage."""
    _, out = run(f"""{MODEL}
    from torch._subclasses.fake_tensor import FakeTensorMode
    large = torch.randn(3000, 3000)
    layer = nn.Linear(WIDTH, 1024)
    vector = torch.nn.utils.parameters_to_vector(layer.parameters())
    torch.nn.utils.parametrizations.weight_norm(layer)
    layer(torch.ones(2, WIDTH)).nan_to_num().sum().backward()
    with FakeTensorMode():
        fake = nn.Parameter(torch.empty(WIDTH, WIDTH)).data.normal_().half()
    kinds = [torch.eye(4).to_sparse().mul_(2.0).clone(), torch.eye(4).to_sparse_csr().mul_(2.0).half(), torch.nested.nested_tensor([torch.ones(2)]).clone()]
    out = [
        torch.func.vmap(lambda x: x.clone().mul_(2.0))(large).equal(large * 2), torch.func.grad(lambda x: x.clone().mul_(2.0).sum())(large).sum().item(),
        vector.shape[0], list(fake.shape), len(kinds), nn.Linear(WIDTH, WIDTH).share_memory().weight.is_shared(),
    ]
    """)
    assert out == [True, 18e6, 1024 * 8192 + 1024, [8192, 8192], 3, True]


def test_what_is_written_into_a_large_weight_by_any_means_survives_casts_and_copies() -> None:
    """What `fill_`, a part's write, an addition or an optimizer of the host wrote was gone once the weight was cast, cloned or deepcopied:
    merged adapters, rows that were loaded into a larger vocabulary and weights of ones were zeros."""
    _, out = run(f"""{MODEL}
    WIDTH = 4096
    def layer():
        return nn.Linear(WIDTH, WIDTH, bias=False)
    merged, rows, ones, stepped, unit, mean = (layer() for _ in range(6))
    merged.weight.data += torch.ones(WIDTH, 8) @ torch.ones(8, WIDTH)
    with torch.no_grad():
        rows.weight[100:200] = torch.ones(100, WIDTH)
    nn.init.ones_(ones.weight)
    stepped(torch.ones(2, WIDTH)).sum().backward()
    torch.optim.SGD(stepped.parameters(), lr=1.0).step()
    nn.init.zeros_(unit.weight).data.add_(1)
    mean.load_state_dict(ones.state_dict())
    out = [
        merged.bfloat16().weight.eq(8).all().item(), copy.deepcopy(rows).weight[100:200].eq(1).all().item(), rows.weight.sum().item() == 100 * WIDTH,
        ones.half().weight.eq(1).all().item(), stepped.weight.data.double().eq(-2).all().item(), unit.weight.detach().clone().eq(1).all().item(),
        mean.weight.eq(1).all().item(),
    ]
    nn.Linear(8, 8).cuda()(torch.ones(4, 8, device="cuda")).sum().backward()
    """)
    assert out == [True] * 7


def test_subclasses_and_modes_see_the_method_that_was_called_alone() -> None:
    """A subclass that knows `Tensor.to` and nothing else ended in a TypeError about `is_cpu`, and a mode saw three more calls."""
    _, out = run(f"""{MODEL}
    from torch.overrides import TorchFunctionMode
    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return "moved" if func is torch.Tensor.to else NotImplemented
    seen = []
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {{}}))
    with Mode():
        torch.ones(2).clone()
    with torch.device("cpu"):
        weight = nn.Linear(WIDTH, WIDTH).weight
    out = [torch.ones(2).as_subclass(Own).to("cuda"), seen[-1], len(seen) <= 2, weight.sum().item()]
    nn.Linear(8, 8).cuda()(torch.ones(4, 8, device="cuda")).sum().backward()
    """)
    assert out == ["moved", "clone", True, 0.0]
