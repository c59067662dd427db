from typing import Any, final

from typing_extensions import Buffer

from fastfcgi._shapes import ValueCache

@final
class ParamsDecoder:
    def __init__(
        self,
        max_bytes: int = 1048576,
        max_pairs: int = 1024,
        reserved: bytes = b"",
        cache: ValueCache | None = None,
        base: dict[str, Any] | None = None,
    ) -> None: ...
    @property
    def received(self) -> int: ...
    def feed(self, data: Buffer) -> None: ...
    def finish(self) -> dict[str, Any]: ...
