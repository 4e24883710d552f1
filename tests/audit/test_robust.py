"""Whatever the text is, a file is read or skipped; whatever interrupts, files are old or new and never half."""

import errno
import random
from pathlib import Path

import pytest

from anychip import cli
from anychip.audit import cache as store
from anychip.audit.engine import audit
from anychip.audit.one import audit_text
from anychip.audit.rule import all_rules

CODE = "\n".join(
    code for rule in all_rules() if rule.kinds[0] == "python" for code, _ in rule.invalid if not code.startswith("<")
)
PARTS = [
    "cuda",
    '"',
    "'",
    "(",
    ")",
    "\\",
    "\n",
    "    ",
    "#",
    "{",
    "}",
    "f'",
    "lambda:",
    "\x0c",
    "é",
    "\t",
    "*",
    ":=",
    "import torch as t\n",
    "global x\n",
]


def mutants(text, count, seed):
    rng = random.Random(seed)
    lines = text.split("\n")
    for _ in range(count):
        start = rng.randrange(len(lines))
        piece = list("\n".join(lines[start : start + rng.randrange(1, 25)]))
        for _ in range(rng.randrange(6)):
            at = rng.randrange(len(piece) + 1)
            piece[at : at + rng.randrange(3)] = rng.choice(PARTS)
        yield "".join(piece)


def test_mutated_python_is_read_or_skipped():
    read = sum(not audit_text(text, "python", "m.py").skipped for text in mutants(CODE, 800, seed=1))
    assert read > 100


@pytest.mark.parametrize("kind", ["shell", "config", "requirements", "dockerfile", "cmake", "cuda", "cxx", "docs"])
def test_mutated_texts_of_other_kinds_are_read(kind):
    code = "\n".join(
        code.partition("\n")[2] for rule in all_rules() for code, _ in rule.invalid if code.startswith("<")
    )
    for text in mutants(code, 150, seed=2):
        assert not audit_text(text, kind, "m").skipped


def test_every_place_lies_in_the_file():
    for text in mutants(CODE, 300, seed=3):
        result = audit_text(text, "python", "m.py")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for finding in result.findings:
            assert 1 <= finding.place.line <= len(lines)
            assert 1 <= finding.place.column <= len(lines[finding.place.line - 1]) + 1


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "p").mkdir()
    for number in range(4):
        (tmp_path / "p" / f"{number}.py").write_text('x.to("cuda")\n')
    return tmp_path / "p"


def test_an_interrupt_in_the_middle_leaves_no_cache(project, monkeypatch):
    monkeypatch.setattr("anychip.audit.engine.ALONE_BYTES", 0)
    monkeypatch.setattr("anychip.audit.engine._CHUNK_BYTES", 1)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(project, jobs=2, progress=interrupt)
    assert not store.cache_file(str(project)).exists()


def test_a_full_disk_leaves_the_old_output_and_is_told(project, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.json").write_text("old")

    def full(handle, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(["audit", str(project), "--no-cache", "--json", str(tmp_path / "a.json")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "p"]


def test_a_cache_that_cannot_be_written_is_no_error(project, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(audit(project).findings) == 4


def test_a_file_that_goes_away_is_told(project, monkeypatch):
    from anychip.source import files

    found = files.tree(project)
    (project / "2.py").unlink()
    monkeypatch.setattr("anychip.audit.engine.tree", lambda path: found)
    answer = audit(project, cache=False)
    assert [(skip.path, skip.reason) for skip in answer.skipped] == [
        ("2.py", "cannot be read: No such file or directory")
    ]
