import logging
from collections.abc import Callable
from typing import Any, Final

from fastfcgi.connection import ConnectionSettings
from fastfcgi.engine import Engine
from fastfcgi.limits import Limits
from fastfcgi.reports import AccessRecord
from fastfcgi.wsgi import Gateway

logger: Final[logging.Logger]

class Service:
    is_full: bool
    stopping: bool
    retiring: bool
    giver: Callable[[int, bool], bool] | None
    pages: dict[str, Callable[[dict[str, Any]], bytes]] | None
    access_log: Callable[[AccessRecord], object] | None
    def __init__(
        self,
        server: Any,
        engine: Engine,
        gateway: Gateway,
        limits: Limits,
        settings: ConnectionSettings,
        max_connections: int,
        overridden: bool = False,
        scgi: bool = False,
    ) -> None: ...
    @property
    def server(self) -> Any: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def gateway(self) -> Gateway: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def channels(self) -> set[Any]: ...
    @property
    def scgi(self) -> bool: ...
    @property
    def max_connections(self) -> int: ...
    def on_deadline(self, now: float) -> float: ...
