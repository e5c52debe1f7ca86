"""What a job leaves in its process, and whether the process is fit for another job of the same script.

What can be put back is put back; what shows that something goes on, or that the process is another than it was, makes
it unfit. What modules keep in their globals stays: for that a script asks when it says `keep_process`.
"""

import linecache
import os
import re
import resource
import shutil
import signal
import sys
from pathlib import Path

#: Jobs that a process is kept for.
MAX_JOBS = 1_000
#: Kilobytes by which its memory may have grown.
MAX_GROWTH = 100_000

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: What the kernel tells of a process that a script can change for good: ids, group, session, signals, capabilities.
_STATUS = re.compile(rb"^(?:Uid|Gid|Groups|NSpgid|NSsid|SigBlk|Cap\w+|NoNewPrivs|Seccomp):.*$", re.MULTILINE)
_HANDLED = re.compile(rb"^Sig(?:Ign|Cgt):\s*([0-9a-f]+)$", re.MULTILINE)
#: SIGTERM is the runner's own affair: it is ignored while a job reports.
_OTHER_SIGNALS = ~(1 << (signal.SIGTERM - 1))
#: Bytes that are read of a file in /proc.
_PAGE = 16_384


class Ground:
    """A job's process as it was before its first job. `directory` is where its jobs work."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jobs = 0
        self._state = _state()
        self._memory = _memory()
        self._umask = _umask()
        self._environ = dict(os.environ)
        self._path, self._argv = list(sys.path), list(sys.argv)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)

    def restored(self, filename: str) -> bool:
        """Clears away what the job of the script `filename` left. False when the process is not fit for another."""
        self._jobs += 1
        if self._jobs >= MAX_JOBS or _is_busy() or _memory() - self._memory > MAX_GROWTH:
            return False
        self._restore_python(filename)
        os.umask(self._umask)
        self._restore_directory()
        return _state() == self._state and not any(stream.closed for stream in self._streams)

    def _restore_python(self, filename: str) -> None:
        sys.modules.pop("jumpscript", None)
        linecache.cache.pop(filename, None)
        sys.path[:], sys.argv[:] = self._path, self._argv
        for name, stream in zip(("stdin", "stdout", "stderr"), self._streams, strict=True):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        now = dict(os.environ)
        if now != self._environ:
            for name in now.keys() - self._environ.keys():
                del os.environ[name]
            os.environ.update({name: value for name, value in self._environ.items() if now.get(name) != value})

    def _restore_directory(self) -> None:
        os.chdir(self._directory)
        with os.scandir() as left:
            for entry in left:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)  # noqa: PTH108


def _is_busy() -> bool:
    """Whether a thread, a child process or a timer of the job goes on."""
    if len(os.listdir("/proc/self/task")) > 1 or any(signal.getitimer(timer)[0] for timer in _TIMERS):  # noqa: PTH208
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _state() -> tuple[object, ...]:
    """What tells this process from one that a script has changed for good."""
    status = _read("/proc/self/status")
    return (
        os.listdir("/proc/self/fd"),  # noqa: PTH208
        _STATUS.findall(status),
        [int(mask, 16) & _OTHER_SIGNALS for mask in _HANDLED.findall(status)],
        _read("/proc/self/limits"),
        os.getpriority(os.PRIO_PROCESS, 0),
        (sys.gettrace(), sys.getprofile()),
    )


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, _PAGE)
    finally:
        os.close(file)


def _memory() -> int:
    """The most that this process had, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
