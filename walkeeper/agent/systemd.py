"""Tells systemd how the service is doing: one datagram to $NOTIFY_SOCKET, sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class SystemdNotifier:
    """Sends states to the service manager; does nothing where there is none.

    A manager that does not take a message is no reason to stop archiving, so a failed send is
    passed over; it never blocks.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address: str | bytes | None = None
        if address.startswith("/"):
            self._address = address
        elif address.startswith("@"):  # the abstract namespace of Linux, unix(7)
            self._address = b"\0" + os.fsencode(address[1:])
        self._watchdog_usec = _watchdog_usec(environ)

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often ``watchdog`` must be called: half of WatchdogSec; None when it is off."""
        return self._watchdog_usec / 2_000_000 if self._watchdog_usec else None

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1", status)

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` must follow (Type=notify-reload)."""
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_ns // 1000}")

    def stopping(self, status: str = "") -> None:
        """The service has begun to drain."""
        self._send("STOPPING=1", status)

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("", text)

    def watchdog(self) -> None:
        """The event loop is alive."""
        self._send("WATCHDOG=1")

    def _send(self, state: str, status: str = "") -> None:
        if self._address is None:
            return
        lines = [state] if state else []
        if status:
            lines.append("STATUS=" + " ".join(status.split()))
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, flags) as sender:
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            return


def _watchdog_usec(environ: Mapping[str, str]) -> int:
    """WATCHDOG_USEC when it is meant for this process, else 0: sd_watchdog_enabled(3)."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return 0
    return int(usec)
