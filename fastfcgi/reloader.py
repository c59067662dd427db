"""Tells when the source of a loaded module changes, for development.

Files are looked at once a second; where the library watchfiles is installed, it tells at once.
"""

import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

logger: Final = logging.getLogger("fastfcgi")

# Seconds between two looks, also at which modules there are.
INTERVAL: Final = 1.0


def module_files() -> set[str]:
    """The source files of all modules that are loaded."""
    files = set()
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if isinstance(name, str):
            # What was compiled without a source beside it changes itself.
            files.add(name[:-1] if name.endswith((".pyc", ".pyo")) else name)
    return files


class Reloader(threading.Thread):
    """Calls once when a file of a loaded module changes, and ends then.

    Args:
        call: What to call, from this thread.
        files: More files to look at.
        interval: Seconds between two looks.
    """

    def __init__(
        self, call: Callable[[], object], files: Iterable[str] = (), interval: float = INTERVAL
    ) -> None:
        super().__init__(name="fastfcgi-reloader", daemon=True)
        self._call = call
        self._more = frozenset(files)
        self._interval = interval
        self._known: dict[str, int] = {}
        self._ended = threading.Event()
        self._library = _library()
        self.changed()  # now, and not when the thread has begun: what changes meanwhile counts

    def run(self) -> None:
        """Look until something has changed."""
        changed = self.changed()
        while changed is None and not self._ended.is_set():
            self._wait()
            changed = self.changed()
        if changed is not None:
            logger.info("%s has changed", changed)
            self._call()

    def stop(self) -> None:
        """End without a call."""
        self._ended.set()

    def changed(self) -> str | None:
        """A file that has changed since it was first seen; None when there is none."""
        for name in module_files() | self._more:
            try:
                time = os.stat(name).st_mtime_ns
            except OSError:
                # Editors take a file away for a moment; it is compared when it is back.
                continue
            if self._known.setdefault(name, time) != time:
                return name
        return None

    def _wait(self) -> None:
        if self._library is None:
            self._ended.wait(self._interval)
            return
        folders = sorted({os.path.dirname(name) for name in self._known if _ours(name)})
        folders = [folder for folder in folders if os.path.isdir(folder)]
        watch = self._library.watch(
            *folders,
            recursive=False,
            rust_timeout=int(1000 * self._interval),
            yield_on_timeout=True,
            stop_event=self._ended,
            raise_interrupt=False,
        )
        for _ in watch:  # something, or nothing for a while: look
            return


def _ours(name: str) -> bool:
    """Whether a file is likely to be worked at: not one of Python or of its packages."""
    return not name.startswith((sys.prefix, sys.base_prefix)) or not os.path.isabs(name)


def _library() -> Any:
    try:
        return importlib.import_module("watchfiles")
    except ImportError:
        return None
