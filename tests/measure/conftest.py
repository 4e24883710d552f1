import pytest
import torch


@pytest.fixture(autouse=True)
def threads():
    """measure sets torch's threads for its process; tests share one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
