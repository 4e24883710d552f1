"""docs/port.md: what `anychip port` does, and one section per rule, made of the rule's own words and cases."""

import textwrap
from types import ModuleType

from anychip.port.engine import port_source
from anychip.port.rules import name_of, rules
from anychip.port.target import PORTABLE_TARGET, Target, make_target, portable_rows

SHOWN_CHIP = "ascend-910b"
_HEAD = """\
# Port: code moved to portable PyTorch, or to one chip's plug-in

    anychip port src/                              what would be edited, what would be left and why
    anychip port src/ --diff                       the same as a patch
    anychip port src/ --out ported/                the whole tree, ported; src/ stays
    anychip port src/ --in-place                   refused where git could not undo it
    anychip port src/ --on ascend-910b --out npu/  the form of one chip's plug-in
    anychip port src/ --out ported/ --prove "python train.py --steps 3"

Nothing of the code is imported or run, unless `--prove` asks for it. Names are resolved by scope and import, not by
text: `from torch import cuda as c` is followed, and a folder called `cuda` is not a device. Edits replace exact bytes;
comments, formatting and every string that is no device stay. Porting twice is porting once.

## Portable code

Two names stand behind the imports of a file that needs them. Both say how PyTorch was *built*: no driver is started, and a
fork is not spoilt.

    DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")
    ACCELERATOR = getattr(torch.accelerator.current_accelerator(), "type", "cuda")

`DEVICE` is where work goes: on a build for the CPU alone `current_accelerator()` is None, and work goes to the CPU.
`ACCELERATOR` is for comparisons, autocast and `torch.get_device_module`: never the CPU, so that on such a build
`x.device.type == ACCELERATOR` is False and `torch.get_device_module(ACCELERATOR)` is torch.cuda, which answers as it did before.
On CUDA both are CUDA, and the program does what it did. They get a leading underscore where a file reads its own names
(`globals()`), where the project imports all names of a file, or where the name is taken; where torch may be missing, the
values stand in the places of the names. torch >= 2.7 is needed.

## What was left

Everything that `anychip audit` finds and that no edit covers is left, so both say the same of the same source; beside the import of
a package stand its uses that PyTorch has no equal for. Each place has a kind and a reason, in the summary and in `--json`: **harmless** works everywhere as it
stands (`torch.backends.cudnn`); **thought** needs a decision (compute capability, NVTX, CUDA graphs, packages); **kernel** needs
another kernel (CUDA C++, Triton); **unsure** might be edited, but nothing says so for certain. The share that is printed is
edits over edits and unsure places. `# anychip: ignore[RULE]` keeps a rule away from a line, `# anychip: ignore-file` from a file.

Scripts, Dockerfiles, settings, requirements and code blocks of READMEs are told, and edited for a chip where it is certain: a variable that a
script sets, the value of `--device`, a key `device`. Prose never. CUDA C++ goes to HIP through PyTorch's own hipify where the
chip's kernels are HIP; else it is listed by file with its symbols, where the audit lists its lines. Notebooks are ported where their layout can be kept.

## Proof

`--prove COMMAND` runs the program in its folder, before and after, with your rights, each run in a process of its own
that ends after `--steps` training steps (default 3):

- shapes only: the original on a virtual CUDA chip, the port on the virtual target under the target's own device name (a name that
  PyTorch does not know without the plug-in is run as `privateuseone`): as many steps, as many parameters on the device, the same
  kinds of operation; portable code on the CUDA chip as well;
- with real numbers on the CPU, same seeds, device functions imitated: as many steps, equal losses (or outputs without training).

A comparison that could not be made is named and counts for nothing; exit code 1 if one fails. Of how many edits the runs of the port
came to the line is told, and which ones they did not reach (`proof: holds, of 12 of 15 edits`): of these the proof says nothing. A loss
is as the program has it, before a GradScaler; on the CPU nothing is compiled.

## Rules

Each rule is one file of `anychip/port/rules/`, which has these cases; tests are made from them as well.
"""


def port_page() -> str:
    """The whole page."""
    chip = make_target(SHOWN_CHIP)
    return "\n".join([_HEAD, *(_section(rule, chip) for rule in rules()), _table()])


def _section(rule: ModuleType, chip: Target) -> str:
    title, _, rest = (rule.__doc__ or "").strip().partition("\n")
    words = [f"### {name_of(rule)}", "", "\n".join([title, *rest.splitlines()]).strip(), ""]
    invalid: list[tuple[str, str, str]] = rule.INVALID
    for before, *_ in invalid[:3]:
        portable = port_source(before, PORTABLE_TARGET).text
        words += [
            *_block("- ", before),
            *_block("+ ", portable),
            *_block(f"+ {chip.device_type}: ", port_source(before, chip).text),
            "",
        ]
    return "\n".join(words)


def _block(mark: str, text: str) -> list[str]:
    """The lines of a case that are no imports and no header, indented as code."""
    lines = [
        line for line in text.splitlines() if line and not line.startswith(("import ", "DEVICE =", "ACCELERATOR ="))
    ]
    return textwrap.indent("\n".join(mark + line for line in lines), "    ").split("\n") if lines else []


def _table() -> str:
    """What becomes of the symbols of torch.cuda that have a row of their own."""
    lines = [
        "## torch.cuda in portable code",
        "",
        "Every symbol that is not here becomes `torch.get_device_module(ACCELERATOR).symbol`.",
        "",
    ]
    lines += ["| symbol | becomes | since torch | else |", "|---|---|---|---|"]
    for symbol, row in portable_rows().items():
        words = row.words.replace("{device}", "DEVICE").replace("{accelerator}", "ACCELERATOR")
        lines.append(f"| {symbol} | {f'`{words}`' if words else 'left'} | {row.since} | {row.note} |")
    return "\n".join([*lines, ""])
