"""`__version__`, which flup's modules have each; here it is that of fastfcgi."""

from fastfcgi.pages import package_version


def attribute(name: str) -> str:
    """A module's __getattr__: its version, found when it is asked for.

    Raises:
        AttributeError: Anything else.
    """
    if name == "__version__":
        return package_version()
    raise AttributeError(f"this module of fastfcgi.flup has no attribute {name!r}")
