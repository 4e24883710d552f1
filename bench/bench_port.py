"""How fast code is ported, and in how much memory: a tree of 40,000 lines made of the rules' own cases and the examples.

At least 4,000 lines a second (250 ms of CPU time per 1,000 lines) from reading to the written tree; at most 600 MB.
"""

import json
import subprocess
import sys
import tempfile
from itertools import chain, cycle
from pathlib import Path

from base import report

NUM_LINES = 40_000
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUN = """
import json, resource, sys, time
from anychip.port.project import port
began = time.process_time()
result = port(sys.argv[1], out=sys.argv[2])
print(json.dumps([time.process_time() - began, result.num_lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def make(root: Path) -> None:
    """Each rule's cases as a file, then copies of the examples until there are enough lines."""
    from anychip.port.rules import rules

    cases = [case[0] for rule in rules() for case in rule.INVALID]
    examples = [path.read_text() for path in sorted(EXAMPLES.glob("*.py"))]
    lines = 0
    for number, text in enumerate(chain(cases, cycle(examples))):
        (root / f"m{number}.py").write_text(text)
        lines += text.count("\n")
        if lines >= NUM_LINES:
            return


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        source.mkdir()
        make(source)
        run = [sys.executable, "-c", RUN, str(source), str(out)]
        time_s, lines, peak_bytes = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    in_time = report("port.1000_lines", time_s / lines * 1e6, "ms", 250)
    return int(not (report("port.memory", peak_bytes / 1e6, "MB", 600) and in_time))


if __name__ == "__main__":
    sys.exit(main())
