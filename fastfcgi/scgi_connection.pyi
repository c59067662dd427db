from fastfcgi.connection import Connection

class ScgiConnection(Connection):
    @property
    def body_left(self) -> int: ...
    @property
    def abandoned(self) -> bool: ...
