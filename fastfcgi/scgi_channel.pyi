import logging
from typing import Final

from fastfcgi.channel import Channel
from fastfcgi.scgi_connection import ScgiConnection

logger: Final[logging.Logger]

class ScgiLink(ScgiConnection): ...
class ScgiChannel(Channel): ...
