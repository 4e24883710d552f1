"""A reader of the table that leaves early (head, less) changes neither the exit code nor the files that were asked for."""

import json
import subprocess
import sys

import pytest

import anychip
from tests.command import ROOT, TRAIN

# anychip's own start, with the reader of its stdout gone before the first word
START = """
import os, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
from anychip.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "run.anychip"
    anychip.record([str(TRAIN)], on="h100").save(path)
    return path


def unread(*argv):
    return subprocess.run([sys.executable, "-c", START, *map(str, argv)], capture_output=True, text=True, cwd=ROOT)


def test_a_forecast_writes_its_files_and_is_fine(recorded, tmp_path):
    path = tmp_path / "answer.json"
    ended = unread("forecast", "--on", "h100", "--load", recorded, "--json", path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(path.read_text(encoding="utf-8"))["outcome"] == "fine"


def test_json_that_nobody_reads_keeps_no_trace_from_its_file(recorded, tmp_path):
    path = tmp_path / "trace.json"
    ended = unread("forecast", "--on", "h100", "--load", recorded, "--json", "-", "--trace", path)
    assert (ended.returncode, path.exists()) == (0, True), ended.stderr


def test_nor_do_messages_to_a_reader_that_has_left(recorded, tmp_path):
    """`2>&1 | head`: the line that told the first file kept the second from being written."""
    trace, snapshot = tmp_path / "trace.json", tmp_path / "snapshot.pickle"
    argv = ["forecast", "--on", "h100", "--load", recorded, "--trace", trace, "--memory-snapshot", snapshot]
    command = [sys.executable, "-m", "anychip", *map(str, argv)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        assert "priced on" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
    assert (trace.exists(), snapshot.exists()) == (True, True)


def test_a_target_without_an_answer_is_bad_news_all_the_same(recorded):
    ended = unread("forecast", "--on", "h100", "--on", "cambricon-mlu590", "--load", recorded)
    assert ended.returncode == 1
    assert "exit code 1" in ended.stderr


@pytest.mark.parametrize("shown", [(), ("--list",)])
def test_an_audit_still_says_that_too_much_is_bound(shown):
    ended = unread("audit", TRAIN, "--fail-on", "automatic", "--no-cache", *shown)
    assert (ended.returncode, "--fail-on automatic allows less" in ended.stderr) == (1, True)
    assert "Traceback" not in ended.stderr


def test_a_list_that_nobody_reads_on_is_fine():
    ended = unread("chips")
    assert (ended.returncode, ended.stderr) == (0, "")
