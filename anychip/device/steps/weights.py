"""Which of a program's tensors are weights: parameters, what optimizers keep of them, gradients; known by the blocks that they lie in."""

import weakref
from typing import Any

import torch

from anychip.device.insides._torch_tensors import Tensors
from anychip.device.steps.blocks import blocks_of, functorch
from anychip.device.steps.holdings import kept_by


class Weights:
    """Sets of numbers of blocks, as the recording has them."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.parameters: set[int] = set()
        self.replaced: set[int] = set()  # blocks of parameters before .half(), .to(dtype) gave the module others
        self.states: set[int] = set()  # blocks of what optimizers had when they stepped first: of a checkpoint
        self.gradients: set[int] = set()  # blocks of what optimizers stepped by first, some made before any backward
        self.held_by: dict[int, int] = {}  # block of a parameter or buffer -> module that holds it
        self._frozen: weakref.WeakKeyDictionary[torch.jit.ScriptModule, list[Any]] = weakref.WeakKeyDictionary()

    def note(self, parameters: list[Any]) -> None:
        self.parameters.update(self._blocks(parameters))

    def note_replaced(self, module: torch.nn.Module) -> None:
        """A module is about to have its own parameters made others of."""
        self.replaced.update(
            self._blocks([one for one in module._parameters.values() if type(one) is torch.nn.Parameter])
        )

    def note_held(self, module: torch.nn.Module, index: int) -> None:
        """index: of the module, which holds its own parameters and buffers."""
        # By the class: Megatron's module of data parallelism has a list of that name.
        held = [*torch.nn.Module.buffers(module, recurse=False), *torch.nn.Module.parameters(module, recurse=False)]
        self.held_by.update(dict.fromkeys(self._blocks(held), index))

    def note_optimizer(self, optimizer: Any, parameters: list[Any]) -> None:
        """One is about to step for the first time."""
        self.states.update(self._blocks(kept_by(optimizer)))
        self.gradients.update(self._blocks([one.grad for one in parameters if one.grad is not None]))

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return not self.parameters.isdisjoint(self._blocks([tensor]))

    def __bool__(self) -> bool:
        return bool(self.parameters)

    def of(self, module: torch.nn.Module) -> list[Any]:
        """A module's parameters, or what it has for them where it is not trained."""
        return list(module.parameters()) or self._frozen_in(module) or quantized_in(module)

    def described(self) -> dict[str, Any]:
        """As a recording says it."""
        return {
            "parameter_blocks": sorted(self.parameters),
            "state_blocks": sorted(self.states),
            "gradient_blocks": sorted(self.gradients),
            "replaced_blocks": sorted(self.replaced),
            "held_by": [list(pair) for pair in self.held_by.items()],
        }

    def _blocks(self, tensors: list[Any]) -> list[int]:
        return blocks_of(tensors, self.tensors)

    def _frozen_in(self, module: torch.nn.Module) -> list[Any]:
        if not isinstance(module, torch.jit.ScriptModule):
            return []
        if module not in self._frozen:
            self._frozen[module] = frozen_in(module)
        return self._frozen[module]


def stacked(tensor: Any) -> bool:
    """Whether a parameter is a stack of those of several models that learn, which `vmap` goes through."""
    if not functorch.is_batchedtensor(tensor):
        return False
    inside = functorch.get_unwrapped(tensor)
    return bool(inside.requires_grad) or stacked(inside)


def rests_on_host(module: torch.nn.Module, parameters: list[Any]) -> bool:
    """Whether parameters that lie on the host between calls are gathered on the chip for them: FSDP's CPU offload.

    FSDP2's are DTensors of a mesh of chips; FSDP1's modules know the device that they compute on.
    """
    meshes = (getattr(one, "device_mesh", None) for one in parameters)
    devices = (getattr(one, "compute_device", None) for one in module.modules())
    return any(mesh is not None and mesh.device_type != "cpu" for mesh in meshes) or any(
        isinstance(device, torch.device) and device.type != "cpu" for device in devices
    )


def quantized_in(module: torch.nn.Module) -> list[Any]:
    """Weights that are buffers, as those of few bits may be in a model that is not trained: all it has. By their names, as masks and tables
    of indices are integers, too."""
    return [one for name, one in module.named_buffers() if "weight" in name.rpartition(".")[2] and one.dim() >= 2]


def frozen_in(module: torch.jit.ScriptModule) -> list[Any]:
    """What were parameters on the chip before `torch.jit.freeze` made them constants of the graph."""
    graph: Any = getattr(module, "graph", None)  # a container has none
    constants = graph.findAllNodes("prim::Constant") if graph is not None else ()
    tensors = (one.t("value") for one in constants if one.hasAttribute("value") and one.kindOf("value") == "t")
    return [one for one in tensors if one.device.type != "cpu"]
