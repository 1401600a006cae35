"""Progress: plain lines where stderr is a file or a pipe, live bars on a terminal."""

import re

import pytest

from pipeline.core import progress
from pipeline.core.progress import Progress, say
from tests.support.terminal import run_on_terminal


class Clock:
    """A clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_lines_are_rare_and_name_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("embed", 1200, "texts", interval=5.0) as bar:
        bar.skip(200)
        for _ in range(10):
            clock.now += 1.0
            bar.add(100, "96 tokens/s")
    assert capsys.readouterr().err.splitlines() == [
        "embed: 700/1,200 texts, 100.0/s, 96 tokens/s, 5 s left",
        "embed: 1,200/1,200 texts, 100.0/s, 96 tokens/s, 0 s left",
    ]


def test_without_detail_a_line_is_rate_and_time(capsys: pytest.CaptureFixture[str], monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("mine", 2, "pairs") as bar:
        clock.now += 4.0
        bar.add(2)
    assert capsys.readouterr().err == "mine: 2/2 pairs, 0.5/s, 0 s left\n"


def test_what_is_not_a_terminal_gets_no_bar(capsys: pytest.CaptureFixture[str]):
    assert progress.open_bar("x", 1, "y") is None
    say("[bold]plain[/bold] \u001b")
    assert capsys.readouterr().err == "[bold]plain[/bold] \u001b\n"


SCRIPT = """
from pipeline.core.progress import Progress, say
say("before")
with Progress("embed", 300, "texts") as outer:
    outer.skip(100)
    for number in range(2):
        with Progress(f"inner {number}", 10, "rows") as inner:
            inner.add(10)
        outer.add(50, "96 tokens/s")
        say(f"line {number} of [brackets] " + "w" * 100)
try:
    with Progress("fails", 10, "rows") as bar:
        bar.add(1)
        raise ValueError
except ValueError:
    say("after")
"""


def test_a_terminal_shows_bars_below_the_lines():
    output = run_on_terminal(SCRIPT)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    for number in range(2):
        assert f"line {number} of [brackets] " + "w" * 100 in lines, "said whole, above the bars"
    assert lines[0] == "before" and "after" in lines
    assert any("embed" in line and "200/300 texts" in line and "/s, 96 tokens/s" in line for line in lines)
    assert any("inner 1" in line and "10/10 rows" in line for line in lines)
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 2, "a cursor that is hidden is shown again"


def test_a_dumb_terminal_gets_lines():
    output = run_on_terminal(SCRIPT, TERM="dumb")
    assert "\x1b" not in output
    assert "inner 0: 10/10 rows, " in output
