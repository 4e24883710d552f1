"""Times a call on a device: warms it up, repeats it until the clock can see it, samples it several times.

On an accelerator a sample ends when the device has; on the CPU it may be taken from the process's own time instead of the
wall's, which leaves out what other processes take: of one thread only, since threads that wait for one another spin.
"""

import time
from dataclasses import dataclass

from anychip.measure.device import Device
from anychip.measure.point import Call, Timing

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LEAST_SAMPLE_S = 2e-3  # of one sample: far above what reading the clock takes
MOST_REPEATS = 2000
WARM_UP_S, MOST_WARM_UPS = 0.02, 20


@dataclass(frozen=True)
class Stopwatch:
    """samples: how many, at least three of a long call. most_s: seconds to spend on one point, about."""

    device: Device
    clock: str = "wall"
    samples: int = 9
    most_s: float = 1.0

    def once(self, call: Call, repeats: int = 1) -> float:
        """Seconds that one of `repeats` calls in a row takes."""
        now = CLOCKS[self.clock]
        self.device.synchronize()
        began = now()
        for _ in range(repeats):
            call()
        self.device.synchronize()
        return (now() - began) / repeats

    def time(self, call: Call) -> Timing:
        self.once(call)
        warm = self.once(call)
        if warm > 2 * self.most_s:
            return Timing((warm,))
        for _ in range(min(int(WARM_UP_S / max(warm, 1e-9)), MOST_WARM_UPS)):
            call()
        repeats = min(max(int(LEAST_SAMPLE_S / max(warm, 1e-9)), 1), MOST_REPEATS)
        if repeats > 1:
            # The second call of a short op is still far from its usual time.
            warm = self.once(call, repeats)
            repeats = min(max(int(LEAST_SAMPLE_S / max(warm, 1e-9)), 1), MOST_REPEATS)
        count = min(self.samples, max(int(self.most_s / max(warm * repeats, 1e-9)), 3))
        return Timing(tuple(self.once(call, repeats) for _ in range(count)))
