"""A chip's file in this folder, asked for by the chip's id."""

import pytest

from anychip.errors import UnknownChip
from anychip.spec import load_chip


def test_a_file_of_that_name_is_told(tmp_path, monkeypatch):
    (tmp_path / "acme-one.toml").write_text('id = "acme-one"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownChip, match=r"by its whole name: acme-one\.toml"):
        load_chip("acme-one")
    with pytest.raises(UnknownChip, match="See: anychip chips"):
        load_chip("acme-two")
