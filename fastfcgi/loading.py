"""From MODULE:APP to the application: importing what is the user's, and saying what failed."""

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.values import parts_of

DEFAULT_NAMES: Final = ("application", "app")

Application = Callable[..., Any]


class LoadError(ConfigurationError):
    """It cannot be loaded. Where code of the user raised something, that is the cause, with the
    user's part of its traceback."""


def load_application(target: str) -> Application:
    """Import the application that MODULE:APP names.

    Raises:
        LoadError: There is no such module or attribute, or it cannot be called, or the module
            raised something.
    """
    name, attribute, call = parts_of(target)
    module = _import(name)
    if attribute is None:
        attribute = next((one for one in DEFAULT_NAMES if hasattr(module, one)), None)
        if attribute is None:
            names = " or ".join(repr(one) for one in DEFAULT_NAMES)
            raise LoadError(f"module {name!r} has no attribute {names}")
    found = _attribute(module, name, attribute)
    if call and callable(found):
        found = _guarded(found, f"calling {attribute}() of {name!r}")
    if not callable(found):
        raise LoadError(f"{target!r} is not a WSGI application: it cannot be called")
    return found  # type: ignore[no-any-return]


def load_hook(target: str) -> Callable[..., Any]:
    """Import the function that MODULE:FUNCTION names.

    Raises:
        LoadError: As with load_application().
    """
    name, _, attribute = target.partition(":")
    found = _attribute(_import(name), name, attribute)
    if not callable(found):
        raise LoadError(f"{target!r} cannot be called")
    return found  # type: ignore[no-any-return]


def find_modules_in(folders: Sequence[str]) -> None:
    """Look for modules in these folders first, in their order."""
    sys.path[:] = [*folders, *(one for one in sys.path if one not in folders)]


def show_cause(error: LoadError) -> None:
    """Print what the user's code raised, if it did."""
    cause = error.__cause__
    if cause is not None:
        traceback.print_exception(type(cause), cause, cause.__traceback__)


def _attribute(module: Any, name: str, dotted: str) -> Any:
    found = module
    for part in dotted.split("."):
        if not hasattr(found, part):
            raise LoadError(f"module {name!r} has no attribute {dotted!r}")
        found = getattr(found, part)
    return found


def _import(name: str) -> Any:
    try:
        return _guarded(
            functools.partial(importlib.import_module, name), f"importing {name!r}", name
        )
    except ModuleNotFoundError as error:
        raise LoadError(f"{error} (looked for in {os.getcwd()} and sys.path)") from None


def _guarded(call: Callable[[], Any], what: str, module: str = "") -> Any:
    """Run code of the user; what it raises is the cause of a LoadError of one line."""
    try:
        return call()
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise  # the module itself is missing, not one that it imports
        raised: BaseException = error
    except (Exception, SystemExit) as error:
        raised = error
    frames = raised.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = traceback.format_exception_only(type(raised), raised)[-1].strip()
    raise LoadError(f"{what} failed: {text}") from raised.with_traceback(frames)


def _is_ours(filename: str) -> bool:
    return filename == __file__ or filename == importlib.__file__ or "importlib._boot" in filename
