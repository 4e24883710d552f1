"""When a stand-in is served, and when not."""

import textwrap

import pytest

from anychip.standins.finder import LIBRARIES, Finder, modules_of
from anychip.standins.guarded import covered
from tests.standins.recorded import Recorded

PROGRAM = """
    import importlib.util, json, sys
    sys.path.insert(0, {packages!r})
    said = {{}}
    import probing                      # an installed library
    said["library guarded"], said["library found"] = probing.GUARDED, probing.FOUND
    said["library unguarded"] = probing.unguarded()
    try:
        import xformers.ops
        said["program guarded"] = True
    except ImportError:
        said["program guarded"] = False
    import megatron.core                # an installed trainer
    said["trainer guarded"] = megatron.core.HAVE_TE
    import flash_attn, liger_kernel, cupy, torch
    said["version"], said["file"] = flash_attn.__version__, getattr(flash_attn, "__file__", None)
    said["installed wins"], said["native"] = liger_kernel.__version__, cupy.__version__
    said["arrays"] = isinstance(torch.zeros(1), cupy.ndarray)
    for name in ("nonsense", "flash_attn_triton"):
        try:
            getattr(flash_attn, name)
        except AttributeError as error:
            said[name] = str(error)
    for statement in ("from flash_attn import nonsense", "import flash_attn.models.gpt", "import torchvision", "import liger_kernel.ops",
                      "import cupy.linalg"):
        try:
            exec(statement)
        except ImportError as error:
            said[statement] = [type(error).__name__, str(error)]
    from transformers.utils import import_utils
    said["transformers"] = [import_utils.is_flash_attn_2_available(), import_utils.attention().__name__]
    import kernels
    said["hub"] = [kernels.get_kernel(f"someone/{{name}}", version=1) for name in ("activation", "paged-attention")]
    said["hub has"] = [kernels.has_kernel(f"someone/{{name}}") for name in ("flash-attn3", "activation")]
    attention = kernels.get_kernel("someone/flash-attention-3").flash_attn_interface
    said["hub attention"] = attention.flash_attn_func.__module__
    said["torchvision spec"] = importlib.util.find_spec("torchvision") is None
    torch.zeros(1, device="cuda")
    json.dump(said, open(sys.argv[1], "w"))
"""

LIBRARY = """
    import importlib.util

    try:
        import bitsandbytes
        GUARDED = True
    except ImportError:
        GUARDED = False
    FOUND = importlib.util.find_spec("xformers") is not None

    def unguarded():
        import deepspeed.ops.adam
        return deepspeed.__version__
"""


TRAINER = """
    try:
        import transformer_engine
        HAVE_TE = True
    except ImportError:
        HAVE_TE = False
"""


TRANSFORMERS = """
    import importlib.metadata, importlib.util

    def is_flash_attn_2_available():
        return importlib.util.find_spec("flash_attn") is not None and "flash-attn" in importlib.metadata.packages_distributions()

    def attention():
        from flash_attn import flash_attn_func
        return flash_attn_func
"""


KERNELS = """
    def get_kernel(repo_id, *, version=None):
        return f"downloaded {repo_id} {version}"
    def has_kernel(repo_id):
        return False
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("finder")
    packages = folder / "site-packages"
    for name, text in (("liger_kernel", '__version__ = "installed"'), ("cupy", 'raise ImportError("libcuda.so.1")')):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(text, encoding="utf-8")
    (packages / "kernels.py").write_text(textwrap.dedent(KERNELS), encoding="utf-8")
    (packages / "cupy-13.9.dist-info").mkdir()
    (packages / "cupy-13.9.dist-info" / "METADATA").write_text("Name: cupy\nVersion: 13.9+cu12\n", encoding="utf-8")
    (packages / "probing.py").write_text(textwrap.dedent(LIBRARY), encoding="utf-8")
    (packages / "transformers" / "utils").mkdir(parents=True)
    for name, text in (("__init__", ""), ("utils/__init__", ""), ("utils/import_utils", textwrap.dedent(TRANSFORMERS))):
        (packages / "transformers" / f"{name}.py").write_text(text, encoding="utf-8")
    (packages / "megatron" / "core").mkdir(parents=True)
    (packages / "megatron" / "core" / "__init__.py").write_text(textwrap.dedent(TRAINER), encoding="utf-8")
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).format(packages=str(packages)), encoding="utf-8")
    recorded = Recorded(program, folder / "said.json")
    assert recorded.said is not None
    return {**recorded.said, "warnings": recorded.warnings}


def test_an_installed_library_that_only_probes_is_told_the_truth(said: dict[str, object]) -> None:
    assert said["library guarded"] is False
    assert said["library found"] is False


def test_a_trainer_that_is_installed_is_served_what_it_is_written_for(said: dict[str, object]) -> None:
    assert said["trainer guarded"] is True


def test_attention_that_a_program_asks_transformers_for_by_name_is_there(said: dict[str, object]) -> None:
    """`attn_implementation="flash_attention_2"` ended with the advice to install flash_attn, which cannot be built without CUDA."""
    assert said["transformers"] == [True, "flash_attn_func"]


def test_the_program_and_a_library_that_needs_it_are_served(said: dict[str, object]) -> None:
    assert said["program guarded"] is True
    assert str(said["library unguarded"]).endswith("+anychip")


def test_a_stand_in_says_what_it_is_and_is_on_no_disk(said: dict[str, object]) -> None:
    assert str(said["version"]).endswith("+anychip")
    assert said["file"] is None


def test_an_installed_package_wins_whole(said: dict[str, object]) -> None:
    assert said["installed wins"] == "installed"
    assert said["import liger_kernel.ops"] == ["ModuleNotFoundError", "No module named 'liger_kernel.ops'"]


def test_an_installed_package_of_native_code_is_stood_for(said: dict[str, object]) -> None:
    assert said["native"] == "13.9+anychip"
    told = "the kernels of cupy run on no virtual chip, and anychip's stand-in for it does not cover cupy.linalg."
    assert said["import cupy.linalg"] == ["ImportError", told]


def test_whoever_asks_whether_a_tensor_is_an_array_of_cupy_is_told_no(said: dict[str, object]) -> None:
    """einops asks of whatever it is given once anything has imported cupy (Megatron-FSDP's mesh of ranks)."""
    assert said["arrays"] is False


def test_a_name_that_the_real_package_lacks_is_missing(said: dict[str, object]) -> None:
    assert said["nonsense"] == "module 'flash_attn' has no attribute 'nonsense'"
    kind, text = said["from flash_attn import nonsense"]  # type: ignore[misc]
    assert kind == "ImportError"
    assert "cannot import name 'nonsense'" in text


def test_a_name_that_is_not_covered_says_so(said: dict[str, object]) -> None:
    assert "does not cover flash_attn.flash_attn_triton." in str(said["flash_attn_triton"])
    assert "does not cover flash_attn.models" in str(said["import flash_attn.models.gpt"])


def test_a_library_that_is_imported_and_not_used_is_not_named(said: dict[str, object]) -> None:
    assert said["warnings"] == []


def test_torchvision_missing_says_how_to_install_it(said: dict[str, object]) -> None:
    assert "pip install --no-deps torchvision" in str(said["import torchvision"])
    assert said["torchvision spec"] is True


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_uncovered_names_are_not_covered_ones(name: str) -> None:
    import importlib

    file = importlib.import_module(f"anychip.standins.libraries.{LIBRARIES[name].file}")
    tables = modules_of(file)
    for module, names in file.UNCOVERED.items():
        assert module in tables, module
        assert not set(names) & set(tables[module]), module
        assert not {f"{module}.{one}" for one in names} & set(tables), module


def test_exception_tables_are_read() -> None:
    def guarded() -> int:
        try:
            return len("x")
        except ImportError:
            return 0

    def plain() -> int:
        return len("x")

    code = guarded.__code__
    assert any(covered(code, at) for at in range(0, len(code.co_code), 2))
    assert not any(covered(plain.__code__, at) for at in range(0, len(plain.__code__.co_code), 2))


def test_a_stand_in_that_is_not_wanted_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYCHIP_WITHOUT", "xformers,apex")
    assert Finder().find_spec("apex", None) is None
    assert Finder().find_spec("flash_attn", None) is not None


def test_a_kernel_of_the_hub_is_the_stand_in_of_its_library(said: dict[str, object]) -> None:
    """Programs ask the Hub for FlashAttention; of others it knows best."""
    assert said["hub attention"] == "anychip.standins.libraries.flash_attn"
    assert said["hub has"] == [True, False]
    assert said["hub"] == ["downloaded someone/activation 1", "downloaded someone/paged-attention 1"]
