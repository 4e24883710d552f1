"""A missing script with a path from the root is no module of that name."""

import re

import pytest

from anychip.argv import check
from anychip.errors import BadUse


@pytest.mark.parametrize("name", ["absent.py", "pkg/absent.py", ""])
def test_no_module_is_offered_for_a_path_from_the_root(name: str, tmp_path) -> None:
    with pytest.raises(BadUse, match=f"^there is no script {re.escape(repr(str(tmp_path / name)))}") as error:
        check([str(tmp_path / name)], module=False)
    assert "For a module" not in str(error.value)
    assert str(error.value).endswith("It is a folder.") == (not name)
