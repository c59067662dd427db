from typing import final

@final
class ValueCache:
    def __init__(self) -> None: ...
