"""A slow link that loses packets, for kernels without netem: two tunnels, and a thread between."""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_LARGEST = 65_536
NAME = "slow"


def open_tunnel() -> int:
    """The far end of a new interface `slow` of the machine that the calling thread is on.

    Raises:
        OSError: this system has no tunnels.
    """
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        asked = struct.pack("16sH22x", NAME.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(end, _TUNSETIFF, asked)
    except OSError:
        os.close(end)
        raise
    return end


class SlowLink:
    """Carries packets between two tunnels until it is closed, which removes both.

    Each is held back for `delay` seconds; `loss` of them (a share) never arrive. Which ones is the
    same in every run.
    """

    def __init__(self, ends: tuple[int, int], *, delay: float, loss: float) -> None:
        self._ends = ends
        self._delay = delay
        self._loss = loss
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="slow link")
        self._thread.start()

    def close(self) -> None:
        """Carry nothing any more."""
        os.close(self._wake)
        self._thread.join()
        for end in (*self._ends, self._woken):
            os.close(end)

    def _carry(self) -> None:
        luck, underway, number = random.Random(7), [], 0
        one, two = self._ends
        while True:
            wait = max(0.0, underway[0][0] - time.monotonic()) if underway else None
            readable, _, _ = select.select([one, two, self._woken], [], [], wait)
            if self._woken in readable:
                return
            for end in readable:
                number += 1
                packet = os.read(end, _LARGEST)
                if luck.random() >= self._loss:
                    due = time.monotonic() + self._delay
                    heapq.heappush(underway, (due, number, two if end == one else one, packet))
            while underway and underway[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(underway)
                os.write(end, packet)
