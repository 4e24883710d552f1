"""What experts a layer has, and what runs them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertsShape:
    """experts: number of routed ones, each of inner width `ffn`, `chosen` per token; shared_ffn: width of what every token
    passes beside them. is_written: as Megatron-LM's with biases, of which PyTorch's kernels cut off what is activated and add
    the last. is_fused: activation and casts to FP8 are part of the products' kernels. acts_again: the backward computes what was
    activated again."""

    experts: int
    chosen: int
    ffn: int
    shared_ffn: int = 0
    is_split: bool = False  # over the tensor group
    grouped: bool = False  # products of all experts are one kernel, else one each
    once: bool = False  # a token is sent once to each node and there once to each rank, not once to each of its experts
    node: int = 1  # neighbours in the expert group that are one node
    most_nodes: int = 0  # to which a token is sent; 0: to all
    is_read: bool = True  # the host reads how many tokens go where
    is_written: bool = False
    is_fused: bool = False
    acts_again: bool = False
