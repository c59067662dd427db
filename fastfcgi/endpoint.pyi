from collections.abc import Collection, Mapping

from fastfcgi.connection_settings import ConnectionSettings

class Endpoint:
    input_expected: bool
    def __init__(
        self,
        *,
        settings: ConnectionSettings | None = None,
        roles: Collection[int] = (1,),
        max_params_bytes: int = 1048576,
        max_params_pairs: int = 1024,
        max_requests: int = 128,
        max_unread_stdin: int = 1048576,
        max_unread_total: int = 16777216,
        reserved: bytes = b"",
        values: Mapping[str, str] | None = None,
        base: Mapping[str, object] | None = None,
    ) -> None: ...
    @property
    def settings(self) -> ConnectionSettings: ...
    @property
    def active(self) -> int: ...
    @property
    def unread(self) -> int: ...
    @property
    def ignored_records(self) -> int: ...
