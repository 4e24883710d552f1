"""What stopped real programs on the virtual chip, each as a few lines of our own. Named after the symptom."""

from tests.device.test_device import run


def test_a_list_of_indices_comes_back_as_it_was_sent() -> None:
    """DDP sends the indices of its buckets through the chip to agree on them; 1,000 parameters are usual."""
    _, out = run("""
        import torch
        sent = torch.randperm(1000, dtype=torch.int32)
        back = sent.cuda().cpu()
        there = torch.empty(1000, dtype=torch.int32, device="cuda")
        there.copy_(sent)
        out = [bool((back == sent).all()), bool((there.cpu() == sent).all()), (sent.cuda().max() + 1).item()]
    """)
    assert out == [True, True, 1000]


def test_a_mask_of_the_host_selects_as_many_as_it_has() -> None:
    """A layer keeps which of its 3,072 columns are adapted as a mask on the host."""
    _, out = run("""
        import torch
        mask = torch.zeros(3, 1024, dtype=torch.bool)
        mask[0] = mask[2] = True
        mask = mask.view(-1)
        x = torch.randn(2048, 4, device="cuda", requires_grad=True)
        padded = x.new_zeros(3072, 4)
        padded[mask] = x
        padded.sum().backward()
        out = [list(padded[mask].shape), list(x.grad.shape)]
    """)
    assert out == [[2048, 4], [2048, 4]]


def test_the_largest_five_are_five_different_ones() -> None:
    """Beam search keys its candidates by token: equal ones would be one candidate."""
    _, out = run("""
        import torch
        best = torch.randn(2, 100, device="cuda").topk(5).indices.tolist()
        first = torch.randn(8, 4, device="cuda").topk(2).indices
        out = [[len(set(row)) for row in best], torch.bincount(first.flatten(), minlength=4).tolist()]
    """)
    assert out == [[5, 5], [4, 4, 4, 4]]


def test_a_token_that_was_chosen_is_none_with_a_special_meaning() -> None:
    """Numbers at the ends of a vocabulary stand for the end of a text: a program would stop generating."""
    _, out = run("""
        import torch
        logits = torch.randn(3, 32000, device="cuda")
        out = [logits.argmax(-1).tolist(), torch.multinomial(logits.softmax(-1), 1)[0].item()]
    """)
    assert out == [[16000] * 3, 16000]


def test_a_model_that_is_only_called_has_its_parameters_on_the_chip() -> None:
    program, _ = run(
        """
        import torch
        net = torch.nn.Linear(64, 64).cuda()
        for _ in range(3):
            with torch.no_grad():
                net(torch.randn(2, 64, device="cuda"))
        """,
        calls=3,
    )
    # 64 x 64 and 64 numbers of 4 bytes
    assert program.block_bytes[program.meta["parameter_blocks"]].sum() == 64 * 65 * 4


def test_compressed_sparse_matrices_multiply_and_train() -> None:
    program, out = run("""
        import torch
        places = torch.randint(0, 100, (2, 500))
        graph = torch.sparse_coo_tensor(places, torch.rand(500), (100, 100)).coalesce()
        weight = torch.randn(100, 16, device="cuda", requires_grad=True)
        rows = graph.to_sparse_csr().cuda()
        (rows @ weight).sum().backward()
        both = torch.sparse.mm(graph.cuda(), graph.cuda())
        out = [rows._nnz(), list(weight.grad.shape), str(rows.t().layout), list((rows @ weight[:, 0]).shape),
               list(graph.cuda().to_sparse_csr().to_dense().shape), both._nnz() == rows._nnz() ** 2 // 100]
        out[0] = out[0] == graph._nnz()
    """)
    assert out == [True, [100, 16], "torch.sparse_csc", [100], [100, 100], True]
    assert [op.name for op in program.ops].count("aten._sparse_mm.default") >= 2
