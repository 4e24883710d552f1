"""torch's insides, what operators of a library tell of themselves: the shape rule that `torch.library.register_fake` keeps."""

from collections.abc import Callable
from typing import Any


class _Sizes:
    """What `torch.library.get_ctx()` gives a shape rule: a size that depends on values."""

    def __init__(self, size: int) -> None:
        self.size = size

    def new_dynamic_size(self, *, min: int = 0, max: int | None = None) -> int:
        return self.size if max is None or self.size < max else max


def sized(name: str, size: int) -> Callable[..., Any] | None:
    """The shape rule of an operator (`namespace::name`), with what depends on values of that size; None where there is none."""
    try:
        from torch._library import fake_impl, simple_registry

        kernel = simple_registry.singleton.find(name).fake_impl.kernel
    except (ImportError, AttributeError):
        return None

    def rule(*args: Any, **kwargs: Any) -> Any:
        with fake_impl.set_ctx_getter(lambda: _Sizes(size)):
            return kernel(*args, **kwargs)

    return None if kernel is None else rule
