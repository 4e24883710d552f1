"""Run on a virtual chip by test_virtual.py: measures it, a few points, into the file that is named."""

import sys

from anychip.measure import gemm, host, memory, run


class Few:
    """The points of a kind that this test looks at."""

    def __init__(self, kind, keep):
        self.kind, self.keep = kind, keep

    def points(self, device, quick):
        return (point for point in self.kind.points(device, quick) if self.keep(point))


if __name__ == "__main__":
    run.KINDS = {
        "host": Few(host, lambda point: point.op != "host.read"),
        "memory": Few(memory, lambda point: point.op == "host_link.rate" or point.shape == str(2**30)),
        "gemm": Few(gemm, lambda point: point.dtype == "bf16" and point.shape == "4096x4096x4096 nt"),
    }
    run.measure("cuda", sys.argv[1], quick=True, only=("host", "memory", "gemm"))
