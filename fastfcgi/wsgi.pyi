from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, TextIO, TypeAlias, final

from fastfcgi.exchange import Exchange
from fastfcgi.file_wrapper import FileWrapper as FileWrapper

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
_OptExcInfo: TypeAlias = _ExcInfo | tuple[None, None, None]
WSGIApplication: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[Any]]

@final
class ErrorStream:
    encoding: Final = "utf-8"
    errors: Final = "backslashreplace"
    def __init__(self, request: Exchange, tee: TextIO | None = None) -> None: ...
    def write(self, text: str) -> int: ...
    def writelines(self, lines: Iterable[str]) -> None: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...

@final
class Response:
    def __init__(self, request: Exchange, is_head: bool) -> None: ...
    @property
    def header_sent(self) -> bool: ...
    def start_response(
        self,
        status: str,
        response_headers: list[tuple[str, str]],
        exc_info: _OptExcInfo | None = None,
    ) -> Callable[[bytes], None]: ...
    def __call__(self, block: bytes) -> None: ...

@final
class Gateway:
    debug: bool
    def __init__(
        self,
        application: WSGIApplication,
        *,
        environ: Mapping[str, Any] | None = None,
        multithread: bool = True,
        multiprocess: bool = False,
        run_once: bool = False,
        debug: bool = False,
        tee_errors: bool = False,
        error_page: Callable[[Any], object] | None = None,
        names_requests: bool = False,
        mount: str | None = None,
    ) -> None: ...
    @property
    def application(self) -> WSGIApplication: ...
    @property
    def base(self) -> dict[str, Any]: ...
    def handle(self, request: Exchange) -> None: ...
    def send_error_page(self, request: Exchange) -> None: ...
