"""Builds the extensions; everything else about the package is said in pyproject.toml.

Environment switches, each "1" or unset:
    FASTFCGI_COVERAGE   line tracing, for coverage.py's Cython plugin (slow, never benchmark it)
    FASTFCGI_SANITIZE   address and undefined-behaviour sanitizers (gcc or clang)

There is nothing in pure Python to fall back on, so a compile that fails must fail the install.
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup


def switched_on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


# Every module in Cython; "fastfcgi._codec" is fastfcgi/_codec.pyx.
MODULES = [
    *["_pairs", "_shapes", "_params", "_codec", "_scgi"],
    *["active_request", "connection_settings", "endpoint", "connection", "scgi_connection"],
    *["environ", "body", "head", "exchange", "wsgi"],
    *["board", "poller", "scores", "handler", "loop", "desk", "engine", "outbox", "service"],
    *["line", "timeouts", "log_ids", "request", "channel", "scgi_channel", "acceptor"],
]
if sys.platform != "win32":
    # POSIX alone.
    MODULES += ["_load_answer", "_load_lane", "_load_loop", "_load", "guard"]

coverage = switched_on("FASTFCGI_COVERAGE")
# Windows keeps its sockets in a library of their own.
libraries = ["ws2_32"] if sys.platform == "win32" else []
extensions = [
    Extension(f"fastfcgi.{name}", [f"fastfcgi/{name}.pyx"], libraries=libraries)
    for name in MODULES
]

for extension in extensions:
    if coverage:
        extension.define_macros += [
            ("CYTHON_TRACE", "1"),
            ("CYTHON_TRACE_NOGIL", "1"),
            # coverage.py's plugins need the C tracer; sys.monitoring would bypass it.
            ("CYTHON_USE_SYS_MONITORING", "0"),
        ]
    if switched_on("FASTFCGI_SANITIZE"):
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
        extension.extra_compile_args += [*flags, "-fno-omit-frame-pointer"]
        extension.extra_link_args += flags

setup(
    ext_modules=cythonize(
        extensions,
        # The plugin looks for the C beside the pyx; everybody else keeps it out of the sources.
        build_dir=None if coverage else "build/cython",
        compiler_directives={"linetrace": coverage},
        force=coverage,
    )
)
