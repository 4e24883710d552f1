"""Documentation does not rot: what it says is printed is printed, what it names exists, and every rule has its row."""

import importlib.metadata as metadata
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest

from anychip import cli
from anychip.spec import load_chip

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_tool", ROOT / "tools" / "docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_walkthrough_prints_what_stands_beside_it(generate):
    """To the letter with the locked torch; another may split an operation otherwise, but has the same sections."""
    printed, written = generate.walkthrough(), (DOCS / "walkthrough.out").read_text()
    if f"torch=={metadata.version('torch').partition('+')[0]}\n" in (ROOT / "requirements.lock").read_text():
        assert printed == written
    assert re.findall("^==.*", printed, re.MULTILINE) == re.findall("^==.*", written, re.MULTILINE)


def test_asking_the_tool_for_help_writes_nothing(generate, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["docs.py", "--help"])
    monkeypatch.setattr(generate, "pages", None)
    with pytest.raises(SystemExit) as end:
        generate.main()
    assert end.value.code == 0
    assert "Write again what is generated" in capsys.readouterr().out


def test_the_pages_of_chips_are_what_the_standard_says(generate):
    """Fails after a change of anychip/standard: run `make docs` and commit what it writes."""
    written = generate.pages()
    assert {path.relative_to(DOCS).as_posix() for path in (DOCS / "chips").glob("*.md")} | {
        "chips.md",
        "port.md",
        "audit-rules.md",
    } == set(written)
    assert [path for path, text in written.items() if (DOCS / path).read_text() != text] == []


@pytest.mark.parametrize(("page", "tables"), [("README.md", ["chips"]), ("docs/standard.md", ["rules", "fields"])])
def test_generated_tables_are_what_the_standard_says(generate, page, tables):
    """Fails after a change of anychip/standard or its schema: run `make docs` and commit what it writes."""
    text = (ROOT / page).read_text()
    assert generate.with_tables(text, tables) == text


def test_what_is_not_between_marks_stays(generate):
    page = "a\n<!-- rules: written by make docs -->\nold\n<!-- end of rules -->\nb\n"
    written = generate.with_tables(page)
    assert written.startswith("a\n<!--")
    assert written.endswith("-->\nb\n")
    assert "\nold\n" not in written
    assert generate.with_tables("no marks\n") == "no marks\n"


def test_the_demo_in_the_readme_shows_the_grades_of_today():
    from anychip.spec import load_chip

    shown = re.findall(
        r"^      (\S+) -> (\S+) \(.*, grade (.)\)$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    assert len(shown) == 4
    assert [(load_chip(alias).id, load_chip(alias).grade) for alias, _, _ in shown] == [(b, c) for _, b, c in shown]


def pages():
    return [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\[[^\]]+\]\(([^)#\s,]+)[^)\s]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_operation_with_a_value_of_its_own_has_a_row():
    import anychip.drivers.masks  # noqa: F401  (adds its own to those of expected)
    from anychip.drivers import expected, values

    text = (DOCS / "values.md").read_text()
    named = set(re.findall(r"`([\w]+)[`=(]", text))
    assert not ({*values.UNIFORM, *values.GUESS, *expected.EXPECTED} - named)


def test_the_chip_of_the_page_can_be_typed_in(tmp_path, capsys):
    """As it stands there it has no problem and all that a forecast needs."""
    page = (ROOT / "docs" / "standard.md").read_text(encoding="utf-8")
    (typed,) = [part for part in re.findall(r"(?:^(?:    .*)?\n)+", page, re.MULTILINE) if 'id = "acme-one"' in part]
    file = tmp_path / "acme-one.toml"
    file.write_text(textwrap.dedent(typed), encoding="utf-8")
    assert cli.main(["chips", "check", str(file)]) == 0
    assert capsys.readouterr().out == "no problems\n"
    assert load_chip(file).get("peaks.matrix.bf16") == pytest.approx(989.4e12)


def test_commands_of_the_readme_are_commands(capsys):
    """Every `anychip ...` line of the README's code blocks parses."""
    from anychip import cli

    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    anychip (.+?)(?:  +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        cli.parser().parse_args(command.split())


def test_targets_of_the_readme_are_in_the_makefile():
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"^    make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE)) <= made
