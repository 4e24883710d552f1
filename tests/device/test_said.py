"""What a program prints that is not shown: its end is told where it fails, and no more of it is kept than fits."""

from pathlib import Path

import pytest

from anychip.device import launch
from anychip.errors import ProgramFailed
from anychip.spec import load_chip


def test_what_a_hidden_program_prints_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It went to a file beside the recording, however much it was."""
    monkeypatch.setattr(launch, "MOST_SAID", 1 << 16)
    monkeypatch.setattr(launch, "LAST_SAID", 1 << 12)
    sizes = []
    cut = launch._cut

    def look(said: Path) -> None:
        cut(said)
        sizes.append(said.stat().st_size)

    monkeypatch.setattr(launch, "_cut", look)
    program = tmp_path / "loud.py"
    program.write_text(
        "for line in range(3000):\n"
        "    print(f'line {line} ' + 'x' * 100)\n"
        "import sys, subprocess\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(1)'])\n"
        "print('the end')\n"
        "raise ValueError('so it fails')\n"
    )
    with pytest.raises(ProgramFailed) as failed:
        launch.record([str(program)], load_chip("h100"), show_output=False)
    assert "line 2999 " in str(failed.value)  # from before it was cut
    assert "the end" in str(failed.value)
    assert "so it fails" in str(failed.value)
    assert max(sizes[-3:]) <= 1 << 16
