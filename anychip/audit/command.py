"""The command `anychip audit`: its options, and what it prints."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from anychip.arguments import positive, score
from anychip.whole import check_apart, check_writable, printed, write

if TYPE_CHECKING:
    from anychip.audit.engine import Audit

AUDIT = """\
How bound to CUDA is this code? Whole repositories: Python, notebooks, scripts, settings, requirements, Dockerfiles, build
files, CUDA C++. Static: nothing of it is run or imported, torch is not needed. Each place with its rule, what it costs to
move, and what to write instead; device names are followed from where they are written to where they are used.

examples:
  anychip audit .                                       one screen
  anychip audit src/ --on ascend-910b --on mi300x       and what stands between this code and those chips
  anychip audit . --json audit.json --html audit.html   every place
  anychip audit . --sarif audit.sarif                   for editors and code hosts
  anychip audit . --fail-on rewrite                     exit code 1 if anything needs a kernel, for CI
  anychip audit . --write-baseline .anychip-baseline.json     accept what is there, then:
  anychip audit . --baseline .anychip-baseline.json --fail-on automatic

In the code: `# anychip: ignore[cuda-api]` on the line or above it, `# anychip: ignore-file` for a whole file.
"""
SEVERITIES = ("cosmetic", "automatic", "thought", "rewrite", "blocks")


def add_parser(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "path",
        metavar="PATH",
        nargs="*",
        default=["."],
        help="a file or folder (default: this one); several are for hooks",
    )
    add("--on", action="append", metavar="CHIP", default=[], help="what stands between this code and that chip; repeat")
    add("--rule", action="append", metavar="RULE", default=[], help="only this rule; repeat")
    add("--ignore", action="append", metavar="RULE", default=[], help="all rules but this one; repeat")
    add("--rules", action="store_true", help="list the rules and end")
    gate = parser.add_argument_group("for CI")
    gate.add_argument("--fail-on", choices=SEVERITIES, metavar="SEVERITY",
                      help="exit code 1 if anything of this severity or worse is found: " + ", ".join(SEVERITIES))  # fmt: skip
    gate.add_argument("--fail-over", type=score, metavar="SCORE", help="exit code 1 if the lock-in score is higher")
    gate.add_argument("--baseline", metavar="FILE", help="report only what is not accepted there")
    gate.add_argument("--write-baseline", metavar="FILE", help="accept everything that is found now")
    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="every finding as JSON (schema 1); - for stdout")
    out.add_argument("--sarif", metavar="FILE", help="every finding as SARIF 2.1.0; - for stdout")
    out.add_argument("--html", metavar="FILE", help="one page with every finding")
    out.add_argument("--list", action="store_true", help="every finding as FILE:LINE:COLUMN, without flow")
    out.add_argument("--jobs", type=positive, metavar="N", help="processes (default: one per core)")
    out.add_argument("--no-cache", action="store_true", help="read every file again, and keep nothing")
    out.add_argument("--quiet", action="store_true", help="no progress and no screen")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: fine. 1: more is bound than --fail-on or --fail-over allows."""
    if args.rules:
        print(rules_text())
        return 0
    outputs = {name: getattr(args, name) for name in ("json", "sarif", "html", "write_baseline")}
    check_apart(outputs, args.path)
    for path in outputs.values():
        check_writable(path)
    from anychip.audit.engine import audit_all

    answer = audit_all(
        args.path, on=args.on, rules=args.rule, ignore=args.ignore, baseline=args.baseline, jobs=args.jobs,
        cache=not args.no_cache, progress=_progress(args.quiet),
    )  # fmt: skip
    _write_all(args, answer)
    if args.list:
        with printed():
            print("\n".join(listed(answer)))
    elif not args.quiet and "-" not in outputs.values():
        from anychip.audit.terminal import show

        with printed():
            show(answer)
    return 1 if _too_much(args, answer) else 0


def _write_all(args: argparse.Namespace, answer: "Audit") -> None:
    from anychip.audit.as_json import to_json, to_sarif
    from anychip.audit.baseline import write_baseline

    if args.json:
        write(args.json, json.dumps(to_json(answer), indent=2), args.quiet)
    if args.sarif:
        write(args.sarif, json.dumps(to_sarif(answer), indent=1), args.quiet)
    if args.html:
        from anychip.audit.html import to_html

        write(args.html, to_html(answer), args.quiet)
    if args.write_baseline:
        write(args.write_baseline, write_baseline(answer.findings), args.quiet)


def _too_much(args: argparse.Namespace, answer: "Audit") -> bool:
    worst = answer.worst()
    over = bool(args.fail_on and worst and SEVERITIES.index(worst) >= SEVERITIES.index(args.fail_on))
    if over:
        print(f"anychip: {worst} is found, and --fail-on {args.fail_on} allows less.", file=sys.stderr)
    if args.fail_over is not None and answer.score > args.fail_over:
        print(f"anychip: the score is {answer.score:.1f}, and --fail-over allows {args.fail_over:g}.", file=sys.stderr)
        return True
    return over


def listed(answer: "Audit") -> list[str]:
    """A line for each finding, as compilers write them; with targets, what each offers."""
    from anychip.audit.offers import Offers
    from anychip.source.text import shown

    offers = [(target.chip, Offers(target.platform)) for target in answer.targets]
    return [
        f"{shown(f.path)}:{f.line}:{f.place.column}: {f.severity} [{f.rule}] {f.symbol}: {f.message}; {f.fix}"
        + "".join(f"; {chip}: {platform.for_finding(f)}" for chip, platform in offers)
        for f in answer.findings
        if f.severity != "flow"
    ]


def rules_text() -> str:
    from anychip.audit.rule import all_rules

    return "\n".join(f"{rule.name:24}{' '.join(rule.docs.partition(chr(10) * 2)[0].split())}" for rule in all_rules())


def _progress(quiet: bool) -> Callable[[int, int], None] | None:
    """A bar on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        return None

    def say(done: int, total: int) -> None:
        filled = 30 * done // max(total, 1)
        bar = "#" * filled + "." * (30 - filled)
        sys.stderr.write(
            f"\r\x1b[2manychip: [{bar}] {done:,} of {total:,} files\x1b[0m\x1b[K\r" if done < total else "\r\x1b[K"
        )
        sys.stderr.flush()

    return say
