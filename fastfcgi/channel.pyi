import logging
from typing import Final

from fastfcgi.connection import Connection
from fastfcgi.service import Service
from fastfcgi.timeouts import TimedLine

logger: Final[logging.Logger]

class Link(Connection): ...

class Channel(TimedLine):
    def __init__(self, service: Service, fd: int, is_inet: bool = False) -> None: ...
    def on_stop(self) -> None: ...
    def on_retire(self) -> None: ...
