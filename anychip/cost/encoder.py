"""Formulas of torch's own inference path for `nn.MultiheadAttention` and `nn.TransformerEncoderLayer`: one operator that
runs a dozen kernels.

Each of these kernels writes what the next one reads, so what passes between them is counted besides the operands.
"""

from anychip.cost.work import Gemm, Work, gemm_work, work_of
from anychip.record import Op, TensorMeta


def _attention(source: TensorMeta, keys: int, width: int, heads: int) -> tuple[tuple[Gemm, ...], int]:
    """(products, elements that pass between kernels) of attention over [batch, queries, width].

    Products: q, k and v at once, q @ k.T, scores @ v, and the one after the heads are joined. Between them pass the
    projections, split by head, the scores three times (product, mask and softmax), and the heads' results.
    """
    batch, queries = source.shape[0], source.shape[1]
    tokens, head_dim = batch * queries, width // heads
    scores = batch * heads * queries * keys
    products = (
        Gemm(1, tokens, 3 * width, width),
        Gemm(batch * heads, queries, keys, head_dim),
        Gemm(batch * heads, queries, head_dim, keys),
        Gemm(1, tokens, width, width),
    )
    return products, 4 * 3 * tokens * width + 4 * scores + 4 * tokens * width


@work_of("aten._native_multi_head_attention")
def native_attention(op: Op) -> Work:
    """Four products; splitting, softmax and joining are a kernel each."""
    query, key, width, heads = op.args[0], op.args[1], op.args[3], op.args[4]
    products, between = _attention(query, key.shape[1], width, heads)
    return _work(op, products, between * _item_bytes(query), 4 + 3)


@work_of("aten._transformer_encoder_layer_fwd")
def encoder_layer(op: Op) -> Work:
    """Attention and its three kernels, two products of the feed-forward (the activation is in the first), two
    normalisations and two additions, each of which reads and writes every token's width."""
    source, width, heads, hidden = op.args[0], op.args[1], op.args[2], op.args[14].shape[0]
    products, between = _attention(source, source.shape[1], width, heads)
    tokens = source.shape[0] * source.shape[1]
    products += (Gemm(1, tokens, hidden, width), Gemm(1, tokens, width, hidden))
    between += 2 * tokens * hidden + 2 * 2 * tokens * width + 2 * 3 * tokens * width
    return _work(op, products, between * _item_bytes(source), 6 + 3 + 4)


def _item_bytes(tensor: TensorMeta) -> int:
    return tensor.nbytes // tensor.numel if tensor.numel else 0


def _work(op: Op, products: tuple[Gemm, ...], between_bytes: int, kernels: int) -> Work:
    plain = gemm_work(op, products)
    half = between_bytes // 2
    return gemm_work(
        op, products, kernels=kernels, bytes_read=plain.bytes_read + half, bytes_written=plain.bytes_written + half
    )
