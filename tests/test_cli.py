"""The command line: its grammar, its options, what it says to wrong use. What it computes is tested elsewhere."""

import argparse
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from anychip import cli
from anychip.record import Kind, Op, Program, TensorMeta, word

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Adding an option is a decision: it is added here too.
OPTIONS = {
    "": {"--version"},
    "forecast": {
        "--on", "--steps", "--calls", "--step-mark", "--tokens-per-step", "--samples-per-step", "--device", "--host", "--imbalance", "--json",
        "--trace", "--memory-snapshot", "--save", "--load", "--jobs", "--quiet", "-m", "--ranks", "--jitter", "--slow-node",
        "--degraded-link", "--spread", "--price",
    },
    "chips": {"--json", "--markdown"},
    "chips show": {"--json", "--markdown", "--platform"},
    "chips check": {"--json", "--fix"},
    "chips schema": set(),
    "chips new": {"--like"},
    "chips clusters": {"--json"},
    "chips links": {"--json"},
    "measure": {"--chip", "--clock", "--device", "--only", "--out", "--quick", "--quiet", "--threads"},
    "audit": {"--baseline", "--fail-on", "--fail-over", "--html", "--ignore", "--jobs", "--json", "--list", "--no-cache", "--on", "--quiet", "--rule", "--rules", "--sarif", "--write-baseline"},
    "port": {"--on", "--out", "--diff", "--in-place", "--prove", "--prove-on", "--steps", "--json", "--quiet"},
}  # fmt: skip


def parsers(parser, name=""):
    """Every (command, parser) of the tree."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield from parsers(child, f"{name} {word}".strip())


def test_all_options_are_listed_here():
    found = {
        name: {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        for name, parser in parsers(cli.parser())
    }
    assert found == OPTIONS


@pytest.mark.parametrize("command", [name for name in OPTIONS if name])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "usage: anychip" in capsys.readouterr().out


def test_help_says_that_the_program_is_run(capsys):
    for argv in (["--help"], ["forecast", "--help"]):
        with pytest.raises(SystemExit):
            cli.main(argv)
        assert "runs your program, with your rights" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "program", "module"),
    [
        (["--on", "h100", "train.py"], ["train.py"], None),
        (["--on", "h100", "train.py", "--on", "x", "--json", "y", "-m", "z"],
         ["train.py", "--on", "x", "--json", "y", "-m", "z"], None),
        (["--on", "h100", "-m", "pkg.train", "--steps", "9"], [], ["pkg.train", "--steps", "9"]),
        (["train.py", "--on", "x"], ["train.py", "--on", "x"], None),
        (["--on", "h100", "train.py", "--", "-v"], ["train.py", "--", "-v"], None),
        (["--on", "h100", "train.py", "--help"], ["train.py", "--help"], None),
    ],
)  # fmt: skip
def test_everything_after_the_program_is_the_programs(argv, program, module):
    args = cli.parser().parse_args(["forecast", *argv])
    assert (args.program, args.module) == (program, module)
    assert args.steps is None


def test_targets_keep_their_order():
    args = cli.parser().parse_args(["forecast", "--on", "b", "--on", "a", "x.py"])
    assert args.on == ["b", "a"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train.py"], ["no chip given", "--on h100"]),
        (["train.py", "--on", "h100"], ["--on stands behind train.py", "Options come first"]),
        (["-m", "json.tool", "--on=h100"], ["--on stands behind json.tool", "Options come first"]),
        (["--on", "h100"], ["no program given"]),
        (["--on", "h100", "--load", "x.anychip", "train.py"], ["leave out", "train.py"]),
        (["--on", "h100", "--load", "no-such-file"], ["no-such-file", "no such file"]),
        (["--on", "h100", "--load", "x.anychip", "--calls", "3"], ["--calls", "leave out one"]),
        (["--on", "h100", "mi300x:8", "train.py"], ["is a chip: each has its own --on. Try: --on mi300x:8\n"]),
        (["--on", "h100", "no-such-script.py"], ["there is no script 'no-such-script.py'", "-m no-such-script\n"]),
        (["--on", "h100", "pkg/no_such_script.py"], ["-m pkg.no_such_script\n"]),
        (["--on", "h100", "-m", "no.such.module", "--steps", "3"], ["there is no module 'no.such.module'"]),
        (["--on", "h100", "-m", "json.no_such"], ["there is no module 'json.no_such'"]),
        (["--on", "h100", "-m", "tests/test_cli.py"], ["leave out -m: tests/test_cli.py"]),
        (["--on", "h100", "."], ["It is a folder"]),
        (["--on", "h100:8", "sh", "train.py"], ["sh is a command, not a script", "-m torch.distributed.run"]),
        (["--on", "h100:8@nowhere", __file__], ["nowhere"]),
        (
            ["--on", "h100@nowhere", __file__],
            ["h100@nowhere: no COUNT is given", "CHIP:COUNT@CLUSTER", "h100:8@nowhere"],
        ),
        (["--on", "h100@dgx-h100", __file__], ["no COUNT is given", "--on h100:8@dgx-h100"]),
        (["--on", "h100:2048@dgx-h100", __file__], ["1016", "2048"]),
        (["--on", "h100+rocm", __file__], ["not there yet"]),
        (["--on", "h100", "--jitter", "0.1", __file__], ["several chips"]),
        (["--on", "h100:8", "--jitter", "-1", __file__], ["jitter -1"]),
        (["--on", "h100:8", "--spread", "2", __file__], ["spread 2", "0 (all alike)"]),
        (["--on", "h100", "--on", "h100:1", "--save", "x.anychip", __file__], ["on h100 than on h100:1: "]),
        (["--on", "h100:8..64", "--save", "x.anychip", __file__], ["--save", "one number of chips"]),
        (["--on", "h100", "--load", "x.anychip", "--ranks", "all"], ["--ranks", "leave out one"]),
        (["--on", "h10O", __file__], ["h10O", "Did you mean", "anychip chips"]),
        (["--on", "h100", "--json", "/no/such/folder/x.json", __file__], ["there is no folder /no/such/folder"]),
        (["--on", "h100", "--trace", "/", __file__], ["is a folder"]),
        (["--on", "h100", "--json", __file__, __file__], ["--json", "would write over"]),
        (
            ["--on", "h100", "--trace", "-", __file__],
            ["--trace is not written to stdout: name a file."],
        ),  # a file was called -
        (["--on", "h100", "--memory-snapshot", "-", __file__], ["--memory-snapshot is not written to stdout"]),
        (
            ["--on", "h100", "--json", "x.json", "--trace", "./x.json", __file__],
            ["--json and --trace would both write ./x.json"],
        ),
        (["--on", "h100:257", "--ranks", "all", __file__], ["256 at most", "257"]),
        (["--on", "h100", "--save", "/no/x", __file__], ["there is no folder /no"]),
    ],
)
def test_wrong_use_is_one_plain_line_and_exit_2(argv, words, capsys):
    assert cli.main(["forecast", *argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("anychip: ")
    assert said.err.count("\n") == 1
    for text in words:
        assert text in said.err


@pytest.mark.parametrize("option", ["--steps", "--samples-per-step"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_counts_are_whole_numbers_from_one(option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["forecast", "--on", "h100", option, value, "x.py"])
    assert ended.value.code == 2
    assert "whole number" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_the_program_runs(tmp_path):
    script = tmp_path / "touch.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert cli.main(["forecast", "--on", "h100", "--json", str(tmp_path / "no" / "x.json"), str(script)]) == 2
    assert not (tmp_path / "ran").exists()


REFUSES = {
    2: "import argparse\nargparse.ArgumentParser().parse_args()",
    1: "import sys\nraise ValueError(f'these are not used: {sys.argv[1:]}')",
}


@pytest.mark.parametrize("code", REFUSES)
def test_options_behind_the_program_are_named_where_it_refuses_them(code, tmp_path, capfd):
    script = tmp_path / "train.py"
    script.write_text(REFUSES[code])
    assert cli.main(["forecast", "--on", "h100", str(script), "--save=x.anychip", "--batch-size", "3"]) == code
    assert f"\n--save=x.anychip stood behind {script} and so went to it" in capfd.readouterr().err


def test_options_behind_a_program_that_fails_for_another_reason_are_its_own(tmp_path, capfd):
    script = tmp_path / "train.py"
    script.write_text("raise ValueError('no data')")
    assert cli.main(["forecast", "--on", "h100", str(script), "--steps", "3"]) == 1
    assert "stood behind" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"), [("pass", True), ("numsteps = 3", True), ("add('--max-steps')\nsteps = 3", False)]
)
def test_options_behind_a_program_that_does_not_name_them_are_told(text, told, tmp_path, capfd):
    """One that reads no arguments ran as if nothing had been asked for."""
    script = tmp_path / "train.py"
    script.write_text(f"raise ValueError('no data')\n{text}")
    cli.main(["forecast", "--on", "h100", str(script), "--steps", "3"])
    assert (f"--steps behind {script} goes to the program" in capfd.readouterr().err) == told


def test_an_option_that_is_not_there_may_be_the_programs(capsys):
    for option, told in (("--batch-size=4", "--batch-size=4\n"), ("--step", "--step; did you mean --steps?\n")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["forecast", "--on", "h100", option, "train.py"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"unrecognized arguments: {told}Options before the program are anychip's. " in said
        assert f"script.py {option.partition('=')[0]} ...\n" in said
    with pytest.raises(SystemExit):
        cli.main(["chips", "check", "--batch-size=4"])
    assert "program" not in capsys.readouterr().err


def run(*argv, **kwargs):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, **kwargs
    )


def test_python_m_anychip_is_the_command():
    done = run("-m", "anychip", "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "anychip")


def test_an_unknown_verb_is_exit_2():
    done = run("-m", "anychip", "fly")
    assert done.returncode == 2
    assert "invalid choice: 'fly'" in done.stderr


@pytest.mark.parametrize(
    ("argv", "meant"),
    [(["forcast", "--on", "h100"], "forecast"), (["chips", "shw", "h100"], "show"),
     (["forecast", "--host", "measred", "train.py"], "measured"), (["audit", "--fail-on", "blocked"], "blocks")],
)  # fmt: skip
def test_a_word_that_is_nearly_another_is_named(argv, meant, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")
    with pytest.raises(SystemExit):
        cli.main(["fly"])
    assert "did you mean" not in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m anychip chips schema | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("option", ["--json", "--trace", "--memory-snapshot"])
def test_a_full_disk_takes_nothing_but_the_file(tmp_path, capsys, option):
    saved = tmp_path / "x.anychip"
    x = TensorMeta((64, 64), (64, 1), "float32")
    tape = np.array([word(Kind.OP, 0)], dtype=np.int64)
    Program(tape, [Op("aten.mul.Tensor", (x, x), outputs=(x,))], np.array([1], dtype=np.int64)).save(saved)
    assert cli.main(["forecast", "--on", "h100", option, "/dev/full", "--load", str(saved)]) == 2
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # nor does a file take its place
    said = capsys.readouterr()
    assert "time of the run" in said.out
    assert said.err.strip().endswith("/dev/full: cannot be written: No space left on device.")


@pytest.mark.parametrize(
    "argv",
    [
        ["audit", "--json", "a.py"],
        ["audit", "a.py", "--html", "a.py"],
        ["port", "a.py", "--json", "a.py"],
        ["chips", "check", "--json", "chip.toml"],
        ["forecast", "--on", "h100", "--save", "a.py", "b.py"],
    ],
)
def test_no_result_is_written_over_a_source(argv, tmp_path, monkeypatch, capsys):
    """`anychip audit --json a.py`, where the file's name had been forgotten, made a.py JSON."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py", "chip.toml"):
        (tmp_path / name).write_text("x = 1\n")
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert ("would write over what is read" if argv.count("a.py") == 2 else "is there, and is no result") in said
    assert {one.read_text() for one in tmp_path.iterdir()} == {"x = 1\n"}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["audit", ".", "--json", "x", "--sarif", "./x"], "--json and --sarif would both write ./x."),
        (["audit", ".", "--html", "-"], "--html is not written to stdout: name a file."),
        (["measure", "--out", "-"], "--out is not written to stdout: name a file."),
        (["audit", "list", "--json", "list"], "--json list would write over what is read."),
        (["port", ".", "--json", "no/x"], "no/x: there is no folder no."),
    ],
)
def test_outputs_are_looked_at_before_anything_is_read(argv, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("torch\n")
    assert cli.main(argv) == 2
    assert told in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["list"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["audit", "--jobs", "-4"], "expected a whole number from 1"),
        (["audit", "--fail-over", "nan"], "expected a score from 0 to 100"),
        (["measure", "--out", "x.csv", "--threads", "0"], "expected a whole number from 1"),
        (["forecast", "--price", "2.5"], "expected a chip and what an hour of it costs"),
        (["forecast", "--price", "h100=-1"], "expected a number above 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(argv, told, capsys):
    """They were taken: of a score of nan nothing is over."""
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_two_prices_of_a_chip_are_refused(capsys):
    """The last one counted."""
    assert cli.main(["forecast", "--on", "h100", "--price", "h100=2", "--price", "h100=3", "x.py"]) == 2
    assert "--price h100 is given twice, 2 and 3: leave out one." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "code"), [(">/dev/full", 2), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), ("| cat", 0)]
)
def test_where_a_stream_is_full_or_closed_nothing_is_traced(how, code):
    command = f"{sys.executable} -m anychip chips show h100 {how}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr == ("anychip: output: No space left on device\n" if code else "")


def test_a_width_of_nothing_is_none(tmp_path):
    (tmp_path / "a.py").write_text("import torch\nx = torch.zeros(2).cuda()\n")
    done = subprocess.run([sys.executable, "-m", "anychip", "audit", str(tmp_path / "a.py")], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "0"})  # fmt: skip
    assert "lock-in score" in done.stdout
