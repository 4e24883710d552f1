"""Which line of the program something is told of."""

from pathlib import Path

import pytest
from typing_extensions import deprecated

from anychip.record.recorder import user_place


def test_a_deprecated_function_is_called_where_the_program_calls_it():
    """torch has dist.all_gather_into_tensor as deprecated, and its calls were told of typing_extensions.py:3140."""
    with pytest.warns(FutureWarning):
        place = deprecated("an old one", category=FutureWarning)(user_place)()
    assert Path(place.file) == Path(__file__)
