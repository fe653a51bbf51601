"""Two machines on a network of their own: Linux network namespaces joined by a virtual cable.

    with lan() as (office, model):       # raises Missing where that cannot be
        with office.entered():
            ...                          # what is started here runs on that machine
        model.unplug()

A namespace without a name lives as long as a process is in it. Each is held by a shell that waits
for the end of its input, which comes when the test's process ends, however it ends: it then kills
whatever was left running there, and the system removes the cable.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.e2e.slow_link import NAME, SlowLink, open_tunnel

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_HOLD = """
echo ready
cat >/dev/null
here=$(readlink /proc/self/ns/net)
for process in /proc/[0-9]*; do
    number=${process#/proc/}
    if [ "$number" != $$ ] && [ "$(readlink "$process/ns/net")" = "$here" ]; then
        kill -9 "$number"
    fi
done
"""


class Missing(Exception):
    """Namespaces cannot be made here; the text says why."""


class Machine:
    """One namespace, with one end of the cable."""

    def __init__(self, holder: subprocess.Popen[bytes], address: str, other: str) -> None:
        self.address = address
        self._holder = holder
        self._other = other

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is on this machine: so are its sockets, and processes it starts."""
        before = os.open(_OWN, os.O_RDONLY)
        there = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(there)
            os.close(before)

    def unplug(self) -> None:
        """Pull the cable out: nothing arrives any more, and nobody is told."""
        self._ip("link", "set", "cable", "down")

    def plug(self) -> None:
        """Put it back."""
        self._ip("link", "set", "cable", "up")

    def drop_everything(self) -> None:
        """As a firewall that drops: no packet of the other machine is answered."""
        self._ip("route", "add", "blackhole", f"{self._other}/32")

    def drop_nothing(self) -> None:
        """The firewall is gone."""
        self._ip("route", "del", "blackhole", f"{self._other}/32")

    def _ip(self, *arguments: str) -> None:
        self._call("ip", *arguments)

    def _call(self, *command: str) -> None:
        with self.entered():
            _run(*command)

    def _wire(self, other: Machine) -> None:
        """A cable between the two; each end has an address."""
        peer = ("peer", "name", "cable", "netns", str(other._holder.pid))
        self._ip("link", "add", "cable", "type", "veth", *peer)
        for machine in (self, other):
            machine._ip("addr", "add", f"{machine.address}/24", "dev", "cable")
            machine._ip("link", "set", "lo", "up")
            machine.plug()


@contextmanager
def slowly(one: Machine, two: Machine, *, delay: float, loss: float) -> Iterator[None]:
    """Hold back what they send to each other (in seconds), and lose a share of it.

    With the kernel's netem where it has that, else through tunnels; raises Missing without either.
    """
    shape = ("netem", "delay", f"{1000 * delay:g}ms", "loss", f"{100 * loss:g}%")
    try:
        one._call("tc", "qdisc", "add", "dev", "cable", "root", *shape)
    except Missing as reason:
        with _through_tunnels(one, two, delay, loss, reason):
            yield
        return
    try:
        two._call("tc", "qdisc", "add", "dev", "cable", "root", *shape)
        yield
    finally:
        for machine in (one, two):
            machine._call("tc", "qdisc", "del", "dev", "cable", "root")


@contextmanager
def _through_tunnels(
    one: Machine, two: Machine, delay: float, loss: float, why: Missing
) -> Iterator[None]:
    ends = []
    try:
        for machine in (one, two):
            with machine.entered():
                ends.append(open_tunnel())
    except OSError as error:
        for end in ends:
            os.close(end)
        raise Missing(f"{why}, and there are no tunnels: {error}") from error
    link = SlowLink((ends[0], ends[1]), delay=delay, loss=loss)
    try:
        for machine in (one, two):
            machine._ip("link", "set", NAME, "up")
            # One address is nearer than the cable's network of them.
            machine._ip(
                *("route", "add", f"{machine._other}/32", "dev", NAME, "src", machine.address)
            )
        yield
    finally:
        link.close()


@contextmanager
def lan() -> Iterator[tuple[Machine, Machine]]:
    """Two machines, 10.77.0.1 and 10.77.0.2; raises Missing."""
    if sys.platform != "linux":
        raise Missing("network namespaces are Linux's")
    if os.getuid():
        raise Missing("only root makes network namespaces")
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            raise Missing(f"`{program}` is not installed (apt-get install iproute2 util-linux)")
    first, second = "10.77.0.1", "10.77.0.2"
    with ExitStack() as stack:
        one = Machine(stack.enter_context(_holder()), first, second)
        two = Machine(stack.enter_context(_holder()), second, first)
        one._wire(two)
        yield one, two


@contextmanager
def _holder() -> Iterator[subprocess.Popen[bytes]]:
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != b"ready\n":
            raise Missing(f"no namespace can be made here: {holder.stderr.read().decode().strip()}")
        yield holder
    finally:
        with suppress(BrokenPipeError):
            holder.stdin.close()
        holder.wait(30)
        holder.stdout.close()
        holder.stderr.close()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"`{' '.join(command)}` failed here: {done.stderr.strip()}")


def _enter(namespace: int) -> None:
    """setns(2) for the calling thread; Python has it from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
