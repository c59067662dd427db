"""`python -m fastfcgi.flup SCRIPT [ARGS...]`: runs an unchanged script whose flup is fastfcgi.

What the script sees is what `python SCRIPT` shows it: its arguments, __main__, __file__, the first
entry of sys.path. It ends as it would then, too: exit status, signals, tracebacks.
"""

import importlib.machinery
import io
import os
import sys
import types
from types import TracebackType
from typing import Any, Final, NoReturn

from fastfcgi.flup import install

_USAGE: Final = "usage: python -m fastfcgi.flup SCRIPT [ARGS...]"


def _fail(message: str) -> NoReturn:
    """End as Python does when it cannot begin."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


def _read(script: str) -> bytes:
    """Its source, or the end of this process."""
    path = os.path.abspath(script)
    try:
        with io.open_code(path) as file:
            return file.read()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        _fail(f"{sys.executable}: can't open file {path!r}: {reason}")


def _main_module(path: str) -> types.ModuleType:
    """A new __main__ for a script, with what Python itself puts there."""
    module = types.ModuleType("__main__")
    if "__annotations__" in vars(sys.modules["__main__"]):  # not since Python 3.14
        module.__annotations__ = {}
    own: dict[str, Any] = {
        "__file__": path,
        "__cached__": None,
        "__builtins__": sys.modules["builtins"],
        "__loader__": importlib.machinery.SourceFileLoader("__main__", path),
    }
    vars(module).update(own)
    return module


def _of_script(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that led to the script: those of runpy and of this file."""
    while trace is not None and trace.tb_frame.f_code is not main.__code__:
        trace = trace.tb_next
    return None if trace is None else trace.tb_next


def _hide_our_frames() -> None:
    """Have the exception that is about to end the process shown as if we were not there.

    Not printed here: Python itself then does all that belongs to its end, in its order.
    """
    hook = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        error.__traceback__ = _of_script(trace)
        hook(kind, error, error.__traceback__)

    sys.excepthook = show


def main(arguments: list[str]) -> None:
    """Run a script.

    Args:
        arguments: Its path, and what is to be its sys.argv[1:].

    Raises:
        SystemExit: There is no script, or it cannot be read; or the script raised it.
    """
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] in ("-h", "--help"):
            print(_USAGE)
            raise SystemExit(0)
        _fail(_USAGE)
    script = arguments[0]
    install()
    source = _read(script)
    sys.argv[:] = arguments
    # -m has put the current folder there, unless Python is to leave such folders out.
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    module = sys.modules["__main__"] = _main_module(os.path.abspath(script))
    try:
        exec(compile(source, str(module.__file__), "exec", dont_inherit=True), vars(module))
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames()
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
