"""Idioms: the parts of models and training loops that reach CUDA in ways of their own."""

# ruff: noqa: PT018

import torch
from idiom import chip, idiom, main, raises
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@idiom("DataParallel")
def data_parallel() -> None:
    module = nn.DataParallel(nn.Linear(4, 4)).cuda()
    out = module(chip(6, 4))
    out.sum().backward()
    assert out.shape == (6, 4) and module.module.weight.grad.is_cuda
    nn.DataParallel(nn.Linear(4, 4).cuda(), device_ids=[0], output_device=0)(chip(2, 4))
    assert nn.parallel.data_parallel(nn.Linear(4, 4).cuda(), chip(2, 4), device_ids=[0]).shape == (2, 4)


@idiom("torch.cuda.comm")
def comm() -> None:
    import torch.cuda.comm

    x = chip(4, 3)
    assert [one.shape for one in torch.cuda.comm.scatter(x, [0])] == [(4, 3)]
    assert torch.cuda.comm.broadcast(x, [0])[0].is_cuda and torch.cuda.comm.gather([x], destination=0).shape == (4, 3)
    assert torch.cuda.comm.broadcast_coalesced([x, x], [0])[0][1].shape == (4, 3)
    assert torch.cuda.comm.reduce_add([x], 0).shape == (4, 3)


@idiom("LSTM / GRU / RNN")
def recurrent() -> None:
    for kind, states in ((nn.LSTM, 2), (nn.GRU, 1), (nn.RNN, 1)):
        for options in (
            {},
            {"num_layers": 2, "dropout": 0.5},
            {"bidirectional": True},
            {"batch_first": True},
            {"bias": False},
        ):
            module = kind(8, 16, **options).cuda()
            x = chip(5, 3, 8, requires_grad=True)
            out, state = module(x)
            directions = 2 if options.get("bidirectional") else 1
            assert out.shape == (5, 3, 16 * directions) and out.is_cuda and (len(state) if states == 2 else 1) == states
            hidden = state[0] if states == 2 else state
            assert hidden.shape == (directions * module.num_layers, 5 if options.get("batch_first") else 3, 16)
            out.sum().backward()
            assert x.grad.shape == x.shape and all(one.grad is not None for one in module.parameters())
            module.flatten_parameters()
    module = nn.RNN(8, 16, nonlinearity="relu").cuda().eval()
    with torch.no_grad():
        module(chip(5, 3, 8))
    module = nn.LSTM(8, 16, proj_size=4).cuda()
    out, (hidden, cell) = module(chip(5, 3, 8))
    assert out.shape == (5, 3, 4) and hidden.shape == (1, 3, 4) and cell.shape == (1, 3, 16)
    cell = nn.LSTMCell(8, 16).cuda()
    h, c = cell(chip(3, 8))
    (h.sum() + c.sum()).backward()
    nn.GRUCell(8, 16).cuda()(chip(3, 8))[0].sum().backward()
    nn.LSTM(8, 16).half().cuda()(chip(5, 3, 8).half())
    with torch.autocast("cuda"):
        assert nn.LSTM(8, 16).cuda()(chip(5, 3, 8))[0].dtype == torch.float16


@idiom("pack_padded_sequence")
def packed() -> None:
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

    x = pad_sequence([torch.ones(n, 8) for n in (5, 3, 2)]).cuda()
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        sequence = pack_padded_sequence(x, torch.tensor([5, 3, 2]))
        assert sequence.data.is_cuda and sequence.is_cuda and sequence.data.shape == (10, 8)
        out, _ = kind(8, 16).cuda()(sequence)
        padded, lengths = pad_packed_sequence(out)
        assert padded.shape == (5, 3, 16) and lengths.tolist() == [5, 3, 2]
        padded.sum().backward()
    pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False)


@idiom("losses and norms")
def losses() -> None:
    log_probs = chip(10, 2, 5, requires_grad=True).log_softmax(2)
    targets = torch.randint(1, 5, (2, 4), device="cuda")
    for lengths in (torch.tensor([10, 10]), torch.tensor([10, 10], device="cuda"), (10, 10)):
        short = torch.tensor([4, 3]) if isinstance(lengths, torch.Tensor) else (4, 3)
        nn.functional.ctc_loss(log_probs, targets, lengths, short, zero_infinity=True).backward(retain_graph=True)
    nn.CTCLoss()(log_probs, targets, torch.tensor([10, 10]), torch.tensor([4, 3]))
    x = chip(4, 8, requires_grad=True)
    nn.RMSNorm(8).cuda()(x).sum().backward()
    nn.RMSNorm(8).cuda().bfloat16()(x.bfloat16())
    nn.GroupNorm(2, 8).cuda()(chip(2, 8, 4)).sum().backward()
    nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(3)).cuda().eval()(chip(1, 3, 2, 2))
    nn.functional.cross_entropy(x, torch.randint(8, (4,), device="cuda"), label_smoothing=0.1).backward()
    nn.functional.binary_cross_entropy_with_logits(x, torch.ones_like(x)).backward()
    assert x.grad.is_cuda


@idiom("clip_grad_norm_")
def clipping() -> None:
    module = nn.Linear(4, 4).cuda()
    module(chip(2, 4)).sum().backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    assert norm.is_cuda and isinstance(norm.item(), float)
    nn.utils.clip_grad_value_(module.parameters(), 0.5)
    nn.utils.clip_grad_norm_(module.parameters(), 1.0, foreach=False, error_if_nonfinite=True)
    for parameter in module.parameters():
        parameter.grad.data.clamp_(-1, 1)
        parameter.data.add_(parameter.grad, alpha=-0.1)


@idiom("sparse tensors")
def sparse() -> None:
    places = torch.tensor([[0, 1, 2], [2, 0, 1]])
    adjacency = torch.sparse_coo_tensor(places, torch.ones(3), (3, 3)).cuda()
    assert adjacency.is_sparse and adjacency.is_cuda and adjacency.shape == (3, 3) and adjacency._nnz() == 3
    weight = chip(3, 4, requires_grad=True)
    out = torch.sparse.mm(adjacency, weight)
    assert out.shape == (3, 4) and out.is_cuda and not out.is_sparse
    out.sum().backward()
    assert weight.grad.shape == (3, 4)
    assert torch.spmm(adjacency, weight).shape == (3, 4) and torch.mm(adjacency, weight).shape == (3, 4)
    assert (adjacency @ weight).shape == (3, 4)
    direct = torch.sparse_coo_tensor(places.cuda(), torch.ones(3, device="cuda"), (3, 3), device="cuda").coalesce()
    assert direct.is_coalesced() and direct.indices().shape == (2, 3) and direct.values().is_cuda
    assert torch.cuda.sparse.FloatTensor(places.cuda(), torch.ones(3).cuda(), torch.Size([3, 3])).is_cuda
    assert direct.to_dense().shape == (3, 3)
    embedding = nn.Embedding(10, 4, sparse=True).cuda()
    embedding(torch.tensor([1, 2], device="cuda")).sum().backward()
    assert embedding.weight.grad.is_sparse
    torch.optim.SparseAdam(list(embedding.parameters())).step()
    torch.optim.SGD(embedding.parameters(), lr=0.1).step()


@idiom("torch.jit")
def jit() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).cuda()
    traced = torch.jit.trace(module, chip(2, 4))
    assert traced(chip(2, 4)).is_cuda
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2)).cuda()
    traced = torch.jit.trace(image, chip(2, 3, 8, 8))
    assert str(traced.inlined_graph).count("aten::_convolution") == 2
    assert traced(chip(5, 3, 8, 8)).shape == (5, 2, 7, 7)
    traced(chip(5, 3, 8, 8)).sum().backward()
    assert image[0].weight.grad.shape == (4, 3, 3, 3)
    scripted = torch.jit.script(module)
    scripted(chip(2, 4)).sum().backward()
    assert module[0].weight.grad.is_cuda
    torch._C._jit_set_profiling_executor(True)

    @torch.jit.script
    def fused(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * 0.5 * (1.0 + torch.erf(y / 1.41421))

    for _ in range(3):
        assert fused(chip(3), chip(3)).is_cuda
    assert torch.jit.freeze(torch.jit.script(nn.Linear(4, 4).cuda().eval()))(chip(2, 4)).is_cuda


def first_rows(batch: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([x for x, _ in batch])


@idiom("DataLoader workers")
def workers() -> None:
    data = TensorDataset(torch.arange(24.0).reshape(8, 3), torch.arange(8))
    for options in ({"num_workers": 0}, {"num_workers": 0, "pin_memory": True}, {"num_workers": 2, "pin_memory": True},
                    {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True}):  # fmt: skip
        seen = 0
        for x, y in DataLoader(data, batch_size=4, drop_last=True, **options):
            assert x.device.type == "cpu" and x.is_pinned() == bool(options.get("pin_memory")), options
            x, y = x.cuda(non_blocking=True), y.to("cuda")
            assert x.shape == (4, 3) and y.is_cuda
            seen += 1
        assert seen == 2
    loader = DataLoader(
        data, batch_size=4, shuffle=True, collate_fn=first_rows, generator=torch.Generator().manual_seed(0)
    )
    assert next(iter(loader)).shape == (4, 3)
    sampler = torch.utils.data.RandomSampler(data, generator=torch.Generator().manual_seed(1))
    assert len(list(sampler)) == 8


@idiom("optimizers")
def optimizers() -> None:
    for kind, options in ((torch.optim.AdamW, {"fused": True}), (torch.optim.AdamW, {"foreach": True}), (torch.optim.Adam, {"capturable": True}),
                          (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "fused": True}), (torch.optim.Adagrad, {}), (torch.optim.RMSprop, {}),
                          (torch.optim.LBFGS, {"max_iter": 3}), (torch.optim.Adadelta, {}), (torch.optim.NAdam, {}), (torch.optim.RAdam, {})):  # fmt: skip
        module, x = nn.Linear(4, 4).cuda(), chip(2, 4)
        optimizer = kind(module.parameters(), **options)

        def closure(
            module: nn.Module = module, x: torch.Tensor = x, optimizer: torch.optim.Optimizer = optimizer
        ) -> torch.Tensor:
            optimizer.zero_grad()
            loss = module(x).square().mean()
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure) if kind is torch.optim.LBFGS else (closure(), optimizer.step())
        assert all(
            one.is_cuda
            for state in optimizer.state.values()
            for one in state.values()
            if isinstance(one, torch.Tensor) and one.dim()
        )
    from torch.optim.swa_utils import AveragedModel

    AveragedModel(module).update_parameters(module)


@idiom("autograd.Function on the chip")
def functions() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            assert grad.is_cuda
            return grad * 2

    x = chip(3, requires_grad=True)
    Double.apply(x).sum().backward()
    assert x.grad.is_cuda and torch.autograd.grad((x * x).sum(), x)[0].is_cuda
    y = chip(3, requires_grad=True)
    first = torch.autograd.grad((y**3).sum(), y, create_graph=True)[0]
    first.sum().backward()
    y.register_hook(lambda grad: grad * 2)
    (y * 2).sum().backward()
    assert torch.func.vmap(lambda a: a * 2)(chip(3, 2)).is_cuda and torch.func.grad(lambda a: a.sum())(chip(3)).is_cuda
    with torch.no_grad():
        x.copy_(torch.ones(3))
    assert x.tolist() == [1.0, 1.0, 1.0]


@idiom("mixed devices fail")
def mixed() -> None:
    raises(RuntimeError, lambda: chip(2) + torch.ones(2), "Expected all tensors to be on the same device")
    raises(RuntimeError, lambda: nn.Linear(2, 2).cuda()(torch.ones(1, 2)), "same device")
    raises(RuntimeError, lambda: chip(2, 3) @ chip(2, 3))
    assert (chip(2) * torch.tensor(2.0)).is_cuda, "a scalar of the host is welcome"


@idiom("other layers")
def layers() -> None:
    image = chip(2, 3, 16, 16, requires_grad=True)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(8, 4, 2, 2),
                           nn.Upsample(scale_factor=2, mode="bilinear"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.PReLU(), nn.Dropout(0.5)).cuda()  # fmt: skip
    module(image).sum().backward()
    module.to(memory_format=torch.channels_last)(image.detach().to(memory_format=torch.channels_last)).sum().backward()
    nn.TransformerEncoderLayer(16, 4, batch_first=True).cuda()(chip(2, 5, 16)).sum().backward()
    with torch.no_grad():
        nn.TransformerEncoderLayer(16, 4, batch_first=True).cuda().eval()(chip(2, 5, 16))
    nn.MultiheadAttention(16, 4).cuda()(chip(5, 2, 16), chip(5, 2, 16), chip(5, 2, 16))[0].sum().backward()
    nn.EmbeddingBag(10, 4, mode="sum").cuda()(
        torch.tensor([1, 2, 3], device="cuda"), torch.tensor([0, 2], device="cuda")
    ).sum().backward()
    nn.functional.grid_sample(image, chip(2, 4, 4, 2), align_corners=False).sum().backward()
    nn.PixelShuffle(2)(chip(1, 4, 4, 4))
    torch.fft.rfft2(chip(4, 4)).abs()
    torch.einsum("ij,jk->ik", chip(2, 3), chip(3, 4))
    torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)).cuda()(chip(2, 4))
    torch.linalg.svd(chip(4, 4))
    torch.distributions.Categorical(logits=chip(3, 4)).sample()
    torch.distributions.Normal(chip(3), torch.ones(3, device="cuda")).rsample().sum()
    chip(4).sort(), chip(4).topk(2), chip(4).argmax(), chip(4, 4).median(1)
    action = torch.distributions.Categorical(probs=torch.softmax(chip(3, 4), -1))
    assert action.log_prob(action.sample()).shape == (3,) and action.entropy().is_cuda
    torch.distributions.MultivariateNormal(chip(2), torch.eye(2, device="cuda")).sample()


@idiom("shapes that depend on values")
def shapes() -> None:
    x = chip(4)
    assert x.unique().is_cuda and x[torch.ones(4, dtype=torch.bool, device="cuda")].is_cuda
    assert x.nonzero().shape[1] == 1 and torch.eye(3, device="cuda").to_sparse().is_sparse


if __name__ == "__main__":
    main()
