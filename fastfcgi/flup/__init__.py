"""flup's module names over fastfcgi: fastfcgi.flup.server.fcgi for flup.server.fcgi, and so on.

A script changes its import, or nothing at all: after install(), or when it is started by
`python -m fastfcgi.flup SCRIPT`, `import flup.server.fcgi` gives the module of this package. Where
no counterpart is here (flup.server.ajp), the import fails. docs/migrating-from-flup.md tells what
differs.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from fastfcgi.exceptions import ConfigurationError

__all__ = ["install"]

_NAME: Final = "flup"
_OURS: Final = __name__


def _counterpart(name: str) -> str:
    """The module of this package for one of flup."""
    return _OURS + name[len(_NAME) :]


class _Names(MetaPathFinder, Loader):
    """Finds the modules of this package under flup's names: the same modules, not copies.

    They are found when they are imported, not put into sys.modules beforehand, so that tools
    that wait for an import of flup's modules in order to patch them still see it.
    """

    def __init__(self) -> None:
        # By flup's names. Not in the loader_state of their specs: lazy loaders take that.
        self._own_specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _NAME and not name.startswith(_NAME + "."):
            return None
        found = importlib.util.find_spec(_counterpart(name))
        if found is None:
            return None
        is_package = found.submodule_search_locations is not None
        return ModuleSpec(name, self, origin=found.origin, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_counterpart(spec.name))
        self._own_specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        # It has run already. Its own spec stays; its name becomes flup's, by which such tools ask
        # whose import this was.
        module.__name__, module.__spec__ = spec.name, self._own_specs[spec.name]
        self._name_others()

    def _name_others(self) -> None:
        """Give flup's names to what has been loaded along, as an import of flup's would."""
        for name, module in list(sys.modules.items()):
            if not name.startswith(_OURS + ".") or name.endswith("__main__"):
                continue
            theirs = _NAME + name[len(_OURS) :]
            # One that is still being executed gets its name when that is done. One that is loaded
            # lazily may not be asked by its own means while it is.
            spec = object.__getattribute__(module, "__spec__")
            if theirs not in sys.modules and not getattr(spec, "_initializing", False):
                importlib.import_module(theirs)


def install() -> None:
    """Let `import flup` and `from flup.server.fcgi import WSGIServer` give what is here, in this
    process, whether or not flup is installed. A second call does nothing.

    Raises:
        ConfigurationError: flup itself has been imported already, so that parts of the program
            have its classes.
    """
    loaded = sys.modules.get(_NAME)
    if loaded is not None and loaded is not sys.modules[_OURS]:
        where = getattr(loaded, "__file__", None) or "somewhere"
        raise ConfigurationError(
            f"flup has been imported already, from {where}; call fastfcgi.flup.install() before"
            " anything that imports it"
        )
    if not any(isinstance(finder, _Names) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Names())
