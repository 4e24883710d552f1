"""What each platform of the standard offers for what a finding needs: the same, a twin, a package in its place, nothing.

Everything comes from the standard's files: a platform's cuda_code, its map of torch.cuda, [libraries], [kernels], [env],
[detect]. What no public list says is "unknown", never a guess.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anychip.audit.finding import Finding
from anychip.audit.hip import hip_names
from anychip.spec.platform import Platform
from anychip.spec.software import REFERENCE, Api, load_apis

# Verdicts, from nothing to do to nothing there.
AS_IS, EDIT, DECIDE, KERNEL, MISSING, UNKNOWN = "as is", "edit", "decide", "kernel", "missing", "unknown"
VERDICTS = (AS_IS, EDIT, DECIDE, KERNEL, MISSING, UNKNOWN)
NO_TWIN = "no module like torch.cuda"
# Kernel language -> the table that translates CUDA C++ symbols to it.
TRANSLATIONS: Mapping[str, Callable[[], Mapping[str, str]]] = {"HIP": hip_names}
# What a finding asks for where it says nothing itself.
_BY_SEVERITY = {
    "flow": AS_IS,
    "cosmetic": AS_IS,
    "automatic": EDIT,
    "thought": DECIDE,
    "rewrite": KERNEL,
    "blocks": MISSING,
}
# What [libraries] says -> what it means for the code.
_LIBRARY_WORDS = {"none": MISSING, "unknown": UNKNOWN, "torch": EDIT, "sdpa": EDIT}


def _is_portable(finding: Finding) -> bool:
    """Whether what to write instead is PyTorch's own for every device, not a name in the device's module."""
    return finding.severity == "automatic" and not finding.fix.startswith("torch.get_device_module")


@dataclass(frozen=True)
class Offer:
    """text: in a few words, what there is."""

    verdict: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.verdict} ({self.text})" if self.text else self.verdict


class Offers:
    """The answers of one platform."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.native = platform.cuda_code == "native"
        self.apis: Mapping[str, Api] = load_apis(platform.id)
        self._by_need: Mapping[str, Callable[[str], Offer | None]] = {
            "device": self._device, "api": self._api, "collective": self._collective, "library": self._library,
            "triton": self._triton, "kernel": self._kernel, "cuda_symbol": self._symbol, "env": self._env, "smi": self._smi,
            "compile": self._compile,
        }  # fmt: skip

    def for_finding(self, finding: Finding) -> Offer:
        if self.platform.id == REFERENCE:
            return Offer(AS_IS)
        kind, name = finding.need
        found = self._by_need[kind](name) if kind in self._by_need else None
        if found is not None and found.verdict == UNKNOWN and kind == "api" and _is_portable(finding):
            return Offer(EDIT, finding.fix) if self.platform.twin else Offer(DECIDE, NO_TWIN)
        if found is not None and kind == "env":
            return found
        if found is None:
            return Offer(_BY_SEVERITY.get(finding.severity, UNKNOWN))
        if found.verdict == EDIT and finding.severity in ("thought", "rewrite"):
            return Offer(DECIDE, found.text)
        if found.verdict == EDIT and finding.severity in ("flow", "cosmetic"):
            return Offer(AS_IS, found.text)
        return found

    def _device(self, name: str) -> Offer:
        if self.native:
            return Offer(AS_IS, "cuda")
        kind = self.platform.device_type
        return Offer(EDIT if self.platform.twin else DECIDE, kind)

    def _api(self, symbol: str) -> Offer:
        api = self.apis.get(symbol)
        if not symbol or api is None or api.status == "unknown":
            return self._device("") if not symbol or self.native else Offer(UNKNOWN, "no public list says")
        verdict = {"match": AS_IS if self.native else EDIT, "modified": DECIDE, "mismatch": DECIDE, "missing": MISSING}[
            api.status
        ]
        return Offer(verdict, api.target or api.status)

    def _collective(self, name: str) -> Offer:
        backends = self.platform.collective_backends
        if name in backends:
            return Offer(AS_IS, name)
        return Offer(EDIT, backends[0]) if backends else Offer(MISSING, "no backend")

    def _library(self, name: str) -> Offer:
        if name == "torch":
            packages = self.platform.raw.get("install", {}).get("packages", ())
            return Offer(EDIT, ", ".join(packages)) if packages else Offer(UNKNOWN, "no public package")
        stand_in = self.platform.libraries.get(name, "unknown")
        return Offer(_LIBRARY_WORDS.get(stand_in, DECIDE if stand_in != name else AS_IS), stand_in)

    def _triton(self, name: str) -> Offer:
        package = self.platform.libraries.get("triton", "unknown")
        if package in ("none", "unknown"):
            return Offer(KERNEL if package == "none" else UNKNOWN, f"no Triton: {self.language}")
        return Offer(AS_IS, package)

    def _kernel(self, name: str) -> Offer:
        if self.language in TRANSLATIONS:
            return Offer(EDIT, self.language)
        return Offer(KERNEL if self.language else UNKNOWN, self.language)

    def _symbol(self, symbol: str) -> Offer:
        table = TRANSLATIONS.get(self.language)
        if table is None:
            return self._kernel("")
        if not table():
            return Offer(UNKNOWN, "no table: torch is not installed")
        name = table().get(symbol.rstrip(":"))
        return Offer(EDIT, name) if name else Offer(DECIDE, f"no {self.language} name")

    def _env(self, twin: str) -> Offer:
        value: Any = self.platform.raw.get("env", {}).get(twin)
        value = value["value"] if isinstance(value, dict) else value
        if not value:
            return Offer(UNKNOWN, "no such variable is known")
        return Offer(
            AS_IS if self.native and "CUDA_VISIBLE_DEVICES" in value else EDIT,
            value if isinstance(value, str) else value[0],
        )

    def _smi(self, name: str) -> Offer:
        tool = self.platform.raw.get("detect", {}).get("smi")
        return Offer(DECIDE, str(tool)) if tool else Offer(UNKNOWN)

    def _compile(self, name: str) -> Offer:
        backends = self.platform.raw.get("compile", {}).get("backends", ())
        return Offer(DECIDE, ", ".join(map(str, backends))) if backends else Offer(UNKNOWN)

    @property
    def language(self) -> str:
        value = self.platform.raw.get("kernels", {}).get("language", "")
        return str(value["value"] if isinstance(value, dict) else value)
