"""An audit as plain values: the project's JSON (schema 1) and SARIF 2.1.0, which editors and code hosts open."""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from anychip import __version__
from anychip.audit.engine import Audit
from anychip.audit.finding import AGE, Finding
from anychip.audit.offers import Offers
from anychip.audit.rule import all_rules

_LEVELS = {
    "flow": "none",
    "cosmetic": "note",
    "automatic": "warning",
    "thought": "warning",
    "rewrite": "error",
    "blocks": "error",
    AGE: "note",
}
_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def to_json(audit: Audit) -> dict[str, Any]:
    offers = {target.chip: Offers(target.platform) for target in audit.targets}
    return {
        "schema": 1,
        "score": round(audit.score, 2),
        "files": audit.num_files,
        "lines": audit.num_lines,
        "findings": [_finding(f, offers) for f in audit.findings],
        "summary": {
            "by_severity": audit.by_severity,
            "by_rule": dict(Counter(f.rule for f in audit.findings if f.severity != AGE).most_common()),
            "automatic": sum(f.automatic for f in audit.findings),
            "edits": audit.edits,
            "score_left": round(audit.left_score, 2),
            "age": len(audit.age),
            "points": round(audit.points, 2),
            "silenced": audit.silenced,
            "accepted": audit.accepted,
            "lines_by_kind": dict(audit.lines_by_kind),
            "effort": vars(audit.effort),
        },
        "targets": [
            {"chip": t.chip, "platform": t.platform.id, "verdicts": dict(t.verdicts),
             "hardest": [{"verdict": v, "symbol": s, "count": n} for v, s, n in t.hardest]}
            for t in audit.targets
        ],
        "skipped": [{"file": skip.path, "reason": skip.reason} for skip in audit.skipped],
    }  # fmt: skip


def _finding(finding: Finding, offers: Mapping[str, Offers]) -> dict[str, Any]:
    source = finding.source
    there = {chip: platform.for_finding(finding) for chip, platform in offers.items()}
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "file": finding.path,
        "line": finding.place.line,
        "column": finding.place.column,
        "symbol": finding.symbol,
        "message": finding.message,
        "fix": finding.fix,
        "automatic": finding.automatic,
        "source": {"file": source.path, "line": source.line} if source else None,
        "fingerprint": finding.fingerprint,
        "offers": {chip: {"verdict": offer.verdict, "what": offer.text} for chip, offer in there.items()},
    }


def to_sarif(audit: Audit) -> dict[str, Any]:
    """Flow findings carry their source as a related location; they have the level "none"."""
    rules = all_rules()
    index = {rule.name: number for number, rule in enumerate(rules)}
    driver = {
        "name": "anychip audit",
        "version": __version__,
        "rules": [
            {"id": rule.name, "shortDescription": {"text": _first(rule.docs)}, "fullDescription": {"text": rule.docs.strip()}}
            for rule in rules
        ],
    }  # fmt: skip
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"ROOT": {"uri": f"file://{os.path.realpath(audit.root).rstrip('/')}/"}},
        "results": [_result(finding, index[finding.rule]) for finding in audit.findings],
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": [
            {"level": "warning", "message": {"text": skip.reason}, "locations": [{"physicalLocation": _artifact(skip.path)}]}
            for skip in audit.skipped
        ]}],
    }  # fmt: skip
    return {"$schema": _SARIF, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, index: int) -> dict[str, Any]:
    place = finding.place
    region = {"startLine": place.line, "startColumn": place.column}
    if place.end_line >= place.line and (place.end_line, place.end_column) > (place.line, place.column):
        region |= {"endLine": place.end_line, "endColumn": place.end_column}
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.symbol}: {finding.message}. {finding.fix}."},
        "locations": [{"physicalLocation": {**_artifact(finding.path), "region": region}}],
        "partialFingerprints": {"anychip/v1": finding.fingerprint},
        "properties": {"severity": finding.severity, "automatic": finding.automatic},
    }
    if finding.source:
        where = {**_artifact(finding.source.path), "region": {"startLine": finding.source.line}}
        result["relatedLocations"] = [
            {"id": 1, "message": {"text": "where the name comes from"}, "physicalLocation": where}
        ]
    return result


def _artifact(path: str) -> dict[str, Any]:
    from urllib.parse import quote

    return {"artifactLocation": {"uri": quote(path), "uriBaseId": "ROOT"}}


def _first(docs: str) -> str:
    return " ".join(docs.strip().partition("\n\n")[0].split())
