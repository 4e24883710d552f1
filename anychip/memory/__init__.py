"""The memory of a chip as PyTorch hands it out: its caching allocator, replayed over a tape."""

from anychip.memory.allocator import NO_LIMIT, CachingAllocator, OutOfMemory, Settings, settings_of
from anychip.memory.tape import Peaks, TapeMemory, replay

__all__ = ["NO_LIMIT", "CachingAllocator", "OutOfMemory", "Peaks", "Settings", "TapeMemory", "replay", "settings_of"]
