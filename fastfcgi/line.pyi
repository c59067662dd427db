import logging
from typing import Final

from fastfcgi.connection import Connection
from fastfcgi.handler import Handler
from fastfcgi.service import Service

logger: Final[logging.Logger]

class Waiter: ...

class Line(Handler):
    @property
    def service(self) -> Service: ...
    @property
    def connection(self) -> Connection: ...
    @property
    def closed(self) -> bool: ...
    @property
    def unsent(self) -> int: ...
    @property
    def idle(self) -> bool: ...
