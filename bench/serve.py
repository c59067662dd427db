"""Serves an application until TERM, with the server of that kind:

    python -m bench.serve KIND MODULE:NAME PATH OPTIONS

at the unix socket PATH, or, when that is empty, at the listening socket that is descriptor 0.
OPTIONS, in JSON, are the server's own; its defaults without. What has a command line of its own
is started by that: see bench/kinds.py.
"""

import importlib
import json
import sys
from typing import Any


def fastfcgi(app: Any, path: str, options: dict[str, Any]) -> None:
    from fastfcgi import WSGIServer

    WSGIServer(app, bind=f"unix:{path}" if path else "fd:0", **options).run()


def flup(app: Any, path: str, options: dict[str, Any]) -> None:
    from flup.server.fcgi import WSGIServer

    WSGIServer(app, bindAddress=path or None, **options).run()


def flipflop(app: Any, path: str, options: dict[str, Any]) -> None:
    """It has no options and knows descriptor 0 alone."""
    from flipflop import WSGIServer

    WSGIServer(app).run()


def fcgisgi(app: Any, path: str, options: dict[str, Any]) -> None:
    import asyncio

    from fcgisgi import run_wsgi_server

    asyncio.run(run_wsgi_server(app, path or None, **options))


def bjoern(app: Any, path: str, options: dict[str, Any]) -> None:
    import bjoern

    bjoern.run(app, f"unix:{path}", **options)


def waitress(app: Any, path: str, options: dict[str, Any]) -> None:
    from waitress import serve

    serve(app, unix_socket=path, **options)


SERVERS = {serve.__name__: serve for serve in (fastfcgi, flup, flipflop, fcgisgi, bjoern, waitress)}


def main(kind: str, name: str, path: str, options: str = "{}") -> None:
    module, _, attribute = name.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    SERVERS[kind](app, path, json.loads(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
