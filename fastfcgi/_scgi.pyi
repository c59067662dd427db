from typing import Any, final

from typing_extensions import Buffer

from fastfcgi._params import ParamsDecoder

@final
class HeaderReader:
    def __init__(self, decoder: ParamsDecoder) -> None: ...
    @property
    def content_length(self) -> int: ...
    def feed(self, data: Buffer) -> tuple[int, dict[str, Any] | None]: ...
