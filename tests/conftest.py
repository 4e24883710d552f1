import os
from collections.abc import Iterator

import pytest
from warm import Recorders

from anychip.device import launch


@pytest.fixture(scope="session", autouse=True)
def warm_recorders() -> Iterator[None]:
    if os.environ.get("ANYCHIP_TESTS_COLD") == "1":
        yield
        return
    recorders = Recorders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "subprocess", recorders.as_subprocess())
        yield
    recorders.end()
