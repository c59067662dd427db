"""flup.client: WSGI applications that hand their requests on to another server."""

__all__: list[str] = []
