"""`python -m accuracy.graphed`: trains the reference transformer with each layer captured as CUDA graphs, one launch for its kernels.

So do megatron-core's CudaGraphManager and Transformer Engine's make_graphed_callables; embedding, head, loss, communication of
gradients and optimizer stay as they are. (`--graph` of the reference captures a whole step.) Its options are the reference's.
"""

from typing import Any

from torch import nn

from accuracy.reference import __main__ as reference


def graphing(build: Any) -> Any:
    """As `build`."""

    def graphed(*args: Any) -> list[nn.Module]:
        stages: list[nn.Module] = build(*args)
        for stage in stages:
            for layer in stage.layers:  # type: ignore[union-attr]
                layer.compile(backend="cudagraphs")
        return stages

    return graphed


def main() -> None:
    reference.build = graphing(reference.build)
    reference.main()


if __name__ == "__main__":
    main()
