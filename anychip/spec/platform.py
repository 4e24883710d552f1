"""The software that drives a chip, as one value: what the device is called, which dtypes work, what replaces what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anychip.spec.fields import ANSWERS, USES

DEFAULT_CAPABILITY = (8, 0)
DEFAULT_WARP_SIZE = 32


@dataclass(frozen=True, eq=False)
class Platform:
    """A platform file with the overrides of one generation laid over it.

    dtypes: torch dtype name -> use -> answer, "native" where the file is silent about a dtype that it knows.
    libraries: module name -> what stands in for it. launch_queue: how many launches a stream's queue holds, None where nobody says. raw: the whole table, for what has no attribute here.
    """

    id: str
    vendor: str
    name: str
    device_type: str
    module: str
    collective_backends: tuple[str, ...] = ()
    dtypes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attention_fused: bool | None = None
    attention_kernels: tuple[str, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    cuda_code: str = "unknown"
    capability: tuple[int, int] = DEFAULT_CAPABILITY
    warp_size: int = DEFAULT_WARP_SIZE
    launch_queue: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    def supports(self, dtype: str, use: str = "matmul") -> str:
        """What `use` of a torch dtype ("bfloat16", "float8_e4m3fn") does here: one of `fields.ANSWERS`.

        "unknown" where the file says nothing of the dtype. ValueError for a use that does not exist.
        """
        if use not in USES:
            raise ValueError(f"no such use of a dtype: {use!r}; one of {', '.join(USES)}")
        return self.dtypes.get(dtype, {}).get(use, "unknown")

    def compiles(self, language: str) -> bool | None:
        """Whether a program's own kernels in "Triton" or "CUDA C++" are compiled here; None where the file does not say."""
        if language == "Triton":
            package = self.raw.get("triton", {}).get("package", "unknown")
            return None if package == "unknown" else package != "none"
        # A shim replaces names in Python; what is written in CUDA C++ it leaves alone.
        return {"native": True, "shim": False, "no": False}.get(self.cuda_code)

    @property
    def twin(self) -> str:
        """The plug-in's module like torch.cuda, which torch.accelerator answers for too; empty where there is none."""
        return self.module if self.module.startswith("torch.") else ""

    @property
    def alloc_conf(self) -> str | None:
        """The environment variable by which the caching allocator is set; None where the file names none."""
        found: str | None = self.raw.get("env", {}).get("alloc_conf")
        return found

    @property
    def note(self) -> str:
        """The platform's own remarks, one paragraph."""
        return " ".join(self.raw.get("notes", ()))


def build_platform(table: Mapping[str, Any], generation: str | None = None) -> Platform:
    """The platform of a validated table, with [generation.X] of `generation` laid over it."""
    overrides = table.get("generation", {}).get(generation, {}) if generation else {}
    merged = merge({k: v for k, v in table.items() if k != "generation"}, overrides)
    attention, answers = merged.get("attention", {}), merged.get("cuda_answers", {})
    major, minor = answers.get("capability", DEFAULT_CAPABILITY)
    return Platform(
        id=merged["id"],
        vendor=merged["vendor"],
        name=merged["name"],
        device_type=merged["device_type"],
        module=merged["module"],
        collective_backends=tuple(merged.get("distributed", {}).get("backends", ())),
        dtypes={name: _full_row(row) for name, row in merged.get("dtypes", {}).items()},
        attention_fused=attention.get("fused"),
        attention_kernels=tuple(attention.get("kernels", ())),
        libraries=dict(merged.get("libraries", {})),
        versions=tuple(merged.get("versions", {}).get("torch", ())),
        cuda_code=merged.get("cuda_code", "unknown"),
        capability=(major, minor),
        warp_size=answers.get("warp_size", DEFAULT_WARP_SIZE),
        launch_queue=merged.get("launch", {}).get("queue"),
        raw=merged,
    )


def _full_row(row: Mapping[str, str]) -> dict[str, str]:
    """Every use answered: one that the file leaves out is as the storage is, and storage is native unless said."""
    storage = row.get("storage", "native")
    assert storage in ANSWERS
    return {use: row.get(use, storage) for use in USES}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, table by table; figures and lists are replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        is_table = isinstance(value, dict) and isinstance(old, dict) and "value" not in value
        merged[key] = merge(old, value) if is_table and old is not None else value
    return merged
