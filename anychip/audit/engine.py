"""A whole project audited: files in parallel, device names followed across them, a score, and each target's verdicts.

answer = audit("path/to/project", on=["ascend-910b"])
print(answer.score, answer.by_severity)
"""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from anychip.audit import cache as store
from anychip.audit.baseline import read_baseline, split
from anychip.audit.effort import Effort, effort
from anychip.audit.finding import AGE, SEVERITIES, Finding
from anychip.audit.offers import Offers
from anychip.audit.one import FileResult, audit_file, fingerprint, less_own, own_packages
from anychip.audit.rule import all_rules
from anychip.audit.score import points, score
from anychip.errors import BadUse
from anychip.port.survey import Project, survey
from anychip.source.files import File, Skipped, Tree, tree
from anychip.source.project import Reached, follow
from anychip.spec.load import load_chip
from anychip.spec.platform import Platform

# (files done, files in all)
Progress = Callable[[int, int], None]
# Below this many bytes starting processes takes longer than they save.
ALONE_BYTES = 400_000
_CHUNK_BYTES = 400_000
_RULE_OF = {"device": "device-string", "backend": "collective-backend", "tensor_type": "legacy-tensor"}


@dataclass(frozen=True)
class Target:
    """What stands between this code and one platform. verdicts: of all findings but flow and age, by offers.VERDICTS."""

    chip: str
    platform: Platform
    verdicts: Mapping[str, int]
    hardest: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True)
class Audit:
    """findings: by place; `age` among them, not part of score and by_severity. skipped: files that were not read, and why.
    silenced: findings that comments silence. accepted: findings of the baseline. edits: that `anychip port` makes in them.
    lines_of: path -> lines, of every file that was read."""

    root: str
    num_files: int
    num_lines: int
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    silenced: int = 0
    accepted: int = 0
    edits: int = 0
    from_cache: int = 0
    targets: tuple[Target, ...] = ()
    lines_by_kind: Mapping[str, int] = field(default_factory=dict)
    lines_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return score(self.findings, self.num_lines)

    @property
    def left(self) -> list[Finding]:
        return [found for found in self.findings if not found.automatic]

    @property
    def left_score(self) -> float:
        """The score of what `anychip port` does not edit by itself."""
        return score(self.left, self.num_lines)

    @property
    def effort(self) -> Effort:
        return effort(self.findings, self.lines_of)

    @property
    def left_effort(self) -> Effort:
        """What remains once `anychip port` has edited what it can."""
        return effort(self.left, self.lines_of)

    @property
    def points(self) -> float:
        return points(self.findings)

    @property
    def by_severity(self) -> dict[str, int]:
        counts = Counter(f.severity for f in self.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    @property
    def age(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == AGE)

    def worst(self) -> str | None:
        """The highest severity that was found; None for nothing but flow and age."""
        found = {f.severity for f in self.findings}
        return next((s for s in reversed(SEVERITIES[1:]) if s in found), None)


def audit(
    path: str | os.PathLike[str], *, on: Sequence[str] = (), rules: Sequence[str] = (), ignore: Sequence[str] = (),
    baseline: str | Path | None = None, jobs: int | None = None, cache: bool = True, progress: Progress | None = None,
) -> Audit:  # fmt: skip
    """Audit a file or folder; nothing of it is run or imported.

    on: chips to answer for. rules, ignore: only these rules, all but these. jobs: processes (default: one per core).
    Raises BadUse for a path that is not there and unknown rules, UnknownChip for unknown chips.
    """
    return audit_all(
        [path], on=on, rules=rules, ignore=ignore, baseline=baseline, jobs=jobs, cache=cache, progress=progress
    )


def audit_all(
    paths: Sequence[str | os.PathLike[str]], *, on: Sequence[str] = (), rules: Sequence[str] = (), ignore: Sequence[str] = (),
    baseline: str | Path | None = None, jobs: int | None = None, cache: bool = True, progress: Progress | None = None,
) -> Audit:  # fmt: skip
    """The same of several files and folders as one project; of several, paths are shown as they are given."""
    chips = [load_chip(name) for name in on]
    wanted = _wanted(rules, ignore)
    found = _trees([os.fspath(path) for path in paths])
    results, from_cache = _results(found.root, found.files, jobs, cache, progress)
    own = own_packages(file.path for file in found.files)
    findings = [f for r in results for f in less_own(r.findings, own)] + list(_flow_findings(results))
    findings = sorted(
        (f for f in findings if f.rule in wanted), key=lambda f: (f.path, f.place.line, f.place.column, f.rule)
    )
    new, accepted = split(findings, read_baseline(baseline)) if baseline else (tuple(findings), 0)
    skipped = [*found.skipped, *(Skipped(r.path, r.skipped) for r in results if r.skipped)]
    read = [r for r in results if not r.skipped]
    lines: Counter[str] = Counter()
    for result in read:
        lines[result.kind] += result.num_lines
    return Audit(
        root=found.root,
        num_files=len(read),
        num_lines=sum(lines.values()),
        findings=new,
        skipped=tuple(sorted(skipped, key=lambda skip: skip.path)),
        silenced=sum(r.silenced for r in results),
        accepted=accepted,
        edits=sum(r.edits for r in results),
        from_cache=from_cache,
        targets=tuple(_target(chip.id, chip.platform, new) for chip in chips),
        lines_by_kind=dict(lines),
        lines_of={r.path: r.num_lines for r in read},
    )


def _trees(paths: Sequence[str]) -> Tree:
    """The files of all paths. Raises BadUse for one that is not there."""
    trees = []
    for path in paths:
        try:
            trees.append(tree(path))
        except FileNotFoundError:
            raise BadUse(f"{path}: no such file or folder.") from None
    if len(trees) == 1:
        return trees[0]
    named = [(t.root, t) for t in trees]
    files = {file.real: replace(file, path=_shown(root, file.path)) for root, t in named for file in t.files}
    skipped = [replace(skip, path=_shown(root, skip.path)) for root, t in named for skip in t.skipped]
    return Tree(".", tuple(sorted(files.values(), key=lambda file: file.path)), tuple(skipped))


def _shown(root: str, path: str) -> str:
    whole = root if os.path.isfile(root) else os.path.join(root, path)
    return os.path.normpath(whole).replace(os.sep, "/")


def _wanted(rules: Sequence[str], ignore: Sequence[str]) -> set[str]:
    known = {rule.name for rule in all_rules()}
    unknown = sorted({*rules, *ignore} - known)
    if unknown:
        raise BadUse(f"no such rule: {', '.join(unknown)}. There are: {', '.join(sorted(known))}.")
    return (set(rules) or known) - set(ignore)


def _target(chip: str, platform: Platform, findings: Iterable[Finding]) -> Target:
    offers = Offers(platform)
    verdicts: Counter[str] = Counter()
    hard: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        if finding.severity in ("flow", AGE):
            continue
        verdict = offers.for_finding(finding).verdict
        verdicts[verdict] += 1
        if verdict in ("decide", "kernel", "missing", "unknown"):
            hard[(verdict, finding.symbol)] += 1
    order = ("missing", "kernel", "unknown", "decide")
    top = sorted(hard.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1]))
    return Target(chip, platform, dict(verdicts), tuple((v, s, n) for (v, s), n in top))


# ---------------------------------------------------------------- files, from the cache and in parallel


def _results(
    root: str, files: tuple[File, ...], jobs: int | None, cache: bool, progress: Progress | None
) -> tuple[list[FileResult], int]:
    """By path. The second: how many were taken from the cache."""
    project = survey((file.path, file.real) for file in files)
    kept = store.load(root, project) if cache else {}
    rows: dict[str, list[Any]] = {}
    fresh: list[File] = []
    for file in files:
        known = kept.get(file.path)
        if known is not None and known[0] == [file.num_bytes, file.mtime_ns]:
            rows[file.path] = known[1]
        else:
            fresh.append(file)
    cached = len(rows)
    for done in _fresh_rows(fresh, project, jobs):
        rows.update((row[0], row) for row in done)
        if progress:
            progress(len(rows), len(files))
    if cache and fresh:
        store.save(root, project, files, rows)
    return [store.from_row(rows[file.path]) for file in files], cached


def _fresh_rows(files: list[File], project: Project, jobs: int | None) -> Iterator[list[list[Any]]]:
    workers = jobs or min(_cores(), 16)
    of = partial(_audit_chunk, project)
    chunks = _chunks(files)
    if workers == 1 or len(chunks) < 2 or sum(file.num_bytes for file in files) < ALONE_BYTES:
        yield from map(of, chunks)
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), initializer=_start_worker) as pool:
        try:
            for future in as_completed([pool.submit(of, chunk) for chunk in chunks]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(files: list[File]) -> list[list[File]]:
    """Files in groups of about the same size, so that progress is even and no process waits for the last."""
    chunks: list[list[File]] = []
    size = _CHUNK_BYTES
    for file in files:
        if size >= _CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(file)
        size += file.num_bytes
    return chunks


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle; trees are freed by counting references, so the collector would only cost."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()


def _audit_chunk(project: Project, files: list[File]) -> list[list[Any]]:
    return [store.to_row(audit_file(file, project)) for file in files]


# ---------------------------------------------------------------- device names across files


def _flow_findings(results: Sequence[FileResult]) -> Iterator[Finding]:
    silence = {result.path: result.ignores for result in results}
    for reached in follow([result.flow for result in results if result.flow is not None]):
        finding = _flow_finding(reached)
        if finding and not silence[finding.path].covers(finding.line, finding.rule):
            yield finding


def _flow_finding(reached: Reached) -> Finding | None:
    sink, source = reached.sink, reached.source
    if (sink.place.path, sink.place.line) == (source.place.path, source.place.line):
        return None
    rule = _RULE_OF[source.kind]
    where = (
        f"line {source.place.line}"
        if source.place.path == sink.place.path
        else f"{source.place.path}:{source.place.line}"
    )
    return Finding(
        rule, "flow", sink.place, sink.symbol, f'given to {sink.what}: may hold "{source.text}" from {where}',
        "nothing here: it moves with its source", source=source.place,
        fingerprint=fingerprint(rule, sink.place.path, sink.symbol, sink.what),
    )  # fmt: skip
