from typing_extensions import Buffer

class Outbox:
    blocked: bool
    sent_at: float
    @property
    def size(self) -> int: ...
    def clear(self) -> None: ...
    def put(self, records: bytes) -> None: ...
    def put_stream(
        self,
        type: int,
        request_id: int,
        head: bytes | None,
        data: Buffer | None,
        max_content: int = 65528,
        min_padding: int = 0,
    ) -> None: ...
    def put_raw(self, head: bytes | None, data: Buffer | None) -> None: ...
    def send_to(self, fd: int) -> None: ...
