"""flup.server: servers by their protocols; a server is WSGIServer of one of these modules."""

__all__ = ["NoDefault"]


class NoDefault:
    """Stands where an argument was not given and None would mean something."""
