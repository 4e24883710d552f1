"""An audit as one self-contained page: the score, tables by severity, target and file, and every finding, filtered as typed."""

import html
from collections import Counter

from anychip.audit.engine import Audit
from anychip.audit.finding import AGE, SEVERITIES, Finding
from anychip.audit.offers import VERDICTS, Offers
from anychip.audit.rule import all_rules
from anychip.audit.terminal import effort_text, mended_text
from anychip.units import several

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1f24; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #d8dee4; vertical-align: top }
th { font-weight: 600; color: #57606a } td.n, th.n { text-align: right } code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere }
.score { font-size: 2.6rem; font-weight: 700 } .dim { color: #57606a }
.blocks, .rewrite { color: #a40e26 } .thought { color: #8a5300 } .automatic { color: #116329 } .flow, .cosmetic, .age { color: #57606a }
input, select { font: inherit; padding: .3rem .5rem; margin: 0 .5rem .8rem 0; border: 1px solid #8c959f; border-radius: 6px }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3 } th, .dim, .flow, .cosmetic, .age { color: #9198a1 } th, td { border-color: #30363d }
  .blocks, .rewrite { color: #ff8a80 } .thought { color: #e3b341 } .automatic { color: #56d364 } input, select { background: #161b22; color: inherit }
}
"""
_SCRIPT = """
const words = document.getElementById("words"), severity = document.getElementById("severity");
const rows = [...document.querySelectorAll("#findings tbody tr")], shown = document.getElementById("shown");
function filter() {
  const wanted = words.value.toLowerCase().split(/\\s+/).filter(Boolean), kind = severity.value;
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const hide = (kind && row.dataset.severity !== kind) || wanted.some(word => !text.includes(word));
    row.hidden = hide; count += hide ? 0 : 1;
  }
  shown.textContent = count + " of " + rows.length;
}
words.addEventListener("input", filter); severity.addEventListener("change", filter); filter();
"""
# A page of more findings than this takes editors and browsers too long: the rest is in the JSON.
MAX_ROWS = 20_000


def to_html(audit: Audit) -> str:
    title = f"anychip audit: {audit.root}"
    body = [
        f"<h1>{_e(title)}</h1>",
        f'<p><span class="score">{audit.score:.0f}</span> of 100: lock-in score, from {several(round(audit.points), "point")} in '
        f"{several(audit.num_lines, 'line')} of {several(audit.num_files, 'file')}</p>",
        f"<p>{_e(mended_text(audit))}</p>",
        f"<p>{_e(effort_text(audit))}</p>",
        _severities(audit),
        _targets(audit),
        _files(audit),
        _findings(audit),
        _skipped(audit),
        _rules(audit),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_e(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(part for part in body if part)
        + f"\n<script>{_SCRIPT}</script>\n</body></html>"
    )


def _e(value: object) -> str:
    return html.escape(str(value))


def _table(head: list[str], rows: list[list[str]], attributes: str = "", marks: list[str] | None = None) -> str:
    """Columns whose head begins with a space are numbers."""
    numbers = ['class="n"' if name.startswith(" ") else "" for name in head]
    top = "".join(f"<th {mark}>{_e(name.strip())}</th>" for name, mark in zip(head, numbers, strict=True))
    lines = [
        f"<tr {marks[number] if marks else ''}>"
        + "".join(f"<td {m}>{cell}</td>" for cell, m in zip(row, numbers, strict=True))
        + "</tr>"
        for number, row in enumerate(rows)
    ]
    return f"<table {attributes}><thead><tr>{top}</tr></thead><tbody>\n" + "\n".join(lines) + "\n</tbody></table>"


def _severities(audit: Audit) -> str:
    rows = []
    for severity in (*reversed(SEVERITIES), AGE):
        found = [f for f in audit.findings if f.severity == severity]
        if found:
            often = ", ".join(
                f"<code>{_e(symbol)}</code> {n}" for symbol, n in Counter(f.symbol for f in found).most_common(5)
            )
            rows.append([f'<span class="{severity}">{severity}</span>', f"{len(found):,}", often])
    return _table(["severity", " places", "most frequent"], rows) if rows else "<p>Nothing that is bound to CUDA.</p>"


def _targets(audit: Audit) -> str:
    if not audit.targets:
        return ""
    rows = []
    for target in audit.targets:
        hard = ", ".join(f"<code>{_e(s)}</code> {n} ({v})" for v, s, n in target.hardest[:8])
        rows.append([_e(target.chip), *(f"{target.verdicts.get(v, 0):,}" for v in VERDICTS), hard])
    head = ["chip", *(f" {v}" for v in VERDICTS), "the hardest"]
    return "<h2>What stands between this code and</h2>" + _table(head, rows)


def _files(audit: Audit) -> str:
    from anychip.audit.score import points

    by_file: dict[str, list[Finding]] = {}
    for finding in audit.findings:
        by_file.setdefault(finding.path, []).append(finding)
    costs = sorted(((points(found), path) for path, found in by_file.items()), key=lambda pair: (-pair[0], pair[1]))
    rows = [
        [f"<code>{_e(path)}</code>", f"{cost:,.0f}", f"{len(by_file[path]):,}"] for cost, path in costs[:30] if cost
    ]
    return "<h2>Files with most to do</h2>" + _table(["file", " points", " places"], rows) if rows else ""


def _findings(audit: Audit) -> str:
    kept = audit.findings[:MAX_ROWS]
    offers = [Offers(target.platform) for target in audit.targets]
    rows = [
        [f"<code>{_e(f.path)}:{f.line}</code>", f'<span class="{f.severity}">{f.severity}</span>', _e(f.rule),
         f"<code>{_e(f.symbol)}</code>", _e(f.message), _e(f.fix), *(_e(p.for_finding(f)) for p in offers)]
        for f in kept
    ]  # fmt: skip
    if not rows:
        return ""
    choices = "".join(f"<option>{severity}</option>" for severity in (*reversed(SEVERITIES), AGE))
    more = f"<p>{len(audit.findings) - MAX_ROWS:,} more: see --json.</p>" if len(audit.findings) > MAX_ROWS else ""
    return (
        '<h2>Findings <span class="dim" id="shown"></span></h2><input id="words" placeholder="words to look for" size="40">'
        f'<select id="severity"><option value="">every severity</option>{choices}</select>'
        + _table(["place", "severity", "rule", "symbol", "what it is", "what to write", *(t.chip for t in audit.targets)], rows, 'id="findings"',
                 [f'data-severity="{f.severity}"' for f in kept])
        + more
    )  # fmt: skip


def _skipped(audit: Audit) -> str:
    rows = [[f"<code>{_e(skip.path)}</code>", _e(skip.reason)] for skip in audit.skipped[:1000]]
    return f"<h2>Skipped: {several(len(audit.skipped), 'file')}</h2>" + _table(["file", "why"], rows) if rows else ""


def _rules(audit: Audit) -> str:
    used = {f.rule for f in audit.findings}
    rows = [[_e(rule.name), _e(" ".join(rule.docs.split()))] for rule in all_rules() if rule.name in used]
    return "<h2>Rules</h2>" + _table(["rule", "what it is about"], rows) if rows else ""
