from collections.abc import Collection, Mapping
from typing import Final, final

DEFAULT_MAX_PARAMS_BYTES: Final = 1048576
DEFAULT_MAX_PARAMS_PAIRS: Final = 1024
DEFAULT_MAX_REQUESTS: Final = 128
DEFAULT_MAX_UNREAD_STDIN: Final = 1048576
DEFAULT_MAX_UNREAD_TOTAL: Final = 16777216

@final
class ConnectionSettings:
    def __new__(
        cls,
        *,
        roles: Collection[int] = (1,),
        max_params_bytes: int = 1048576,
        max_params_pairs: int = 1024,
        max_requests: int = 128,
        max_unread_stdin: int = 1048576,
        max_unread_total: int = 16777216,
        reserved: bytes = b"",
        values: Mapping[str, str] | None = None,
        base: Mapping[str, object] | None = None,
    ) -> ConnectionSettings: ...
    @property
    def roles(self) -> frozenset[int]: ...
    @property
    def max_params_bytes(self) -> int: ...
    @property
    def max_params_pairs(self) -> int: ...
    @property
    def max_requests(self) -> int: ...
    @property
    def max_unread_stdin(self) -> int: ...
    @property
    def max_unread_total(self) -> int: ...
    @property
    def reserved(self) -> bytes: ...
