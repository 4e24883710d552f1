import pytest

from accuracy.recorder import Recorder


@pytest.fixture(scope="session")
def recorder(tmp_path_factory):
    """One warm process for all, as for the published runs themselves."""
    with Recorder(tmp_path_factory.mktemp("recordings")) as one:
        yield one
