"""A network of this process's own that has loopback and nothing else, for programs that listen on every address."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

from benchmarks.processes import BenchmarkError

_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def enter() -> None:
    """Leave the machine's network for good, children that start later included; before any thread is started.

    Raises:
        BenchmarkError: the system has no such thing, or this user may not have it.
    """
    uid, gid = os.getuid(), os.getgid()
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
        if unshare(_CLONE_NEWNET | (_CLONE_NEWUSER if uid else 0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if uid:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("16sh", b"lo", 0)
            (flags,) = struct.unpack("16xh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))
    except (AttributeError, OSError) as error:
        raise BenchmarkError(
            f"ferrogw listens on every address, so it is only started in a network of its own, which cannot be had "
            f"here ({error}); leave it out of --peer"
        ) from error
