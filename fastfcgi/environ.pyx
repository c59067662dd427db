# cython: language_level=3, freethreading_compatible=True
"""PARAMS -> WSGI environ: what the real web servers leave out, send twice or should not send.

A request pays for every look into its environ, so an entry is looked at once, and set only where
that changes something.
"""

from cpython.dict cimport PyDict_Contains, PyDict_DelItem, PyDict_GetItemWithError, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA,
    PyUnicode_1BYTE_KIND,
    PyUnicode_CheckExact,
    PyUnicode_FindChar,
    PyUnicode_GET_LENGTH,
    PyUnicode_KIND,
)
from libc.stdint cimport int64_t, uint8_t

import logging
import re
from urllib.parse import unquote_to_bytes

from fastfcgi.exceptions import ConfigurationError

cdef object logger = logging.getLogger("fastfcgi")

# Never for the application: "Proxy:" of a request would steer its own HTTP clients (httpoxy); the
# next two repeat CONTENT_LENGTH and CONTENT_TYPE, which wsgiref.validate refuses; the body is
# decoded when it arrives here, whatever transfer coding the client used.
cdef tuple WITHHELD = (
    "HTTP_PROXY",
    "HTTP_CONTENT_LENGTH",
    "HTTP_CONTENT_TYPE",
    "HTTP_TRANSFER_ENCODING",
)

# What PEP 3333 promises to every application, for web servers that do not send it.
cdef tuple DEFAULTS = (
    ("REQUEST_METHOD", "GET"),
    ("SERVER_NAME", "localhost"),
    ("SERVER_PORT", "80"),
    ("SERVER_PROTOCOL", "HTTP/1.0"),
)

# What no decoded path of an application's root has, or only by a mistake: an end by "/", an empty
# or dot segment, an encoded character, a query, a fragment, a control character, half a
# character.
cdef object NO_MOUNT = re.compile(
    r"/$|//|/\.{1,2}(/|$)|[%?#\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]"
)

cdef object SLASHES = re.compile("//+")

cdef frozenset HTTPS_ON = frozenset(("on", "1", "true", "yes"))
cdef frozenset HTTPS_OFF = frozenset(("off", "0", "no", "false", ""))

cdef enum:
    # Longer than any body, and never too long for 64 bits.
    MAX_LENGTH_DIGITS = 18


cdef inline object value_of(dict environ, str name):
    """An entry's value, None where there is none. Until the application runs no other thread
    knows the dict, so what is borrowed from it stays."""
    cdef PyObject* found = PyDict_GetItemWithError(environ, name)
    return <object>found if found != NULL else None


cdef inline bint is_empty(object value) except -1:
    if PyUnicode_CheckExact(value):
        return PyUnicode_GET_LENGTH(value) == 0
    return not value


cdef int64_t parse_length(object text) except -2:
    """Digits as a number, -1 for anything else."""
    cdef const uint8_t* p
    cdef Py_ssize_t i, length
    cdef int64_t number = 0
    if text is None:
        return -1
    if not PyUnicode_CheckExact(text) or PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND:
        if text and text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS:
            return int(text)
        return -1
    p = <const uint8_t*>PyUnicode_1BYTE_DATA(text)
    length = PyUnicode_GET_LENGTH(text)
    if not 0 < length <= MAX_LENGTH_DIGITS:
        return -1
    for i in range(length):
        if not c'0' <= p[i] <= c'9':
            return -1
        number = 10 * number + (p[i] - c'0')
    return number


cdef int64_t content_length(dict params) except -2:
    return parse_length(value_of(params, "CONTENT_LENGTH"))


def content_length_of(params):
    """CONTENT_LENGTH as a number of bytes, None when the body's end alone tells its length.

    Anything but ASCII digits counts as absent: nginx sends "" and Caddy "-1" for a chunked body.
    """
    cdef int64_t length = parse_length(params.get("CONTENT_LENGTH"))
    return None if length < 0 else length


cpdef object complete_environ(dict environ, object override=None):
    """Make the params of a request the CGI part of a WSGI environ, in place (PEP 3333).

    Args:
        environ: The params, latin-1 str.
        override: Entries that take the place of what the web server sent; they count before
            SCRIPT_NAME and PATH_INFO are looked at, so a fixed SCRIPT_NAME works.
    """
    cdef tuple default
    cdef object name
    if environ is None:
        raise TypeError("the environ is None")
    if override:
        environ.update(override)
    for name in WITHHELD:
        if PyDict_Contains(environ, name):
            PyDict_DelItem(environ, name)
    if content_length(environ) < 0 and PyDict_Contains(environ, "CONTENT_LENGTH"):
        PyDict_DelItem(environ, "CONTENT_LENGTH")
    for default in DEFAULTS:
        if is_empty(value_of(environ, default[0])):
            logger.debug("the web server sent no %s; %r is assumed", default[0], default[1])
            PyDict_SetItem(environ, default[0], default[1])
    complete_path(environ)
    PyDict_SetItem(environ, "wsgi.url_scheme", scheme_of(environ))


def url_scheme(environ):
    """HTTPS decides where it says something, else REQUEST_SCHEME, else http."""
    return scheme_of(environ if type(environ) is dict else dict(environ))


cdef str scheme_of(dict environ):
    cdef object https = value_of(environ, "HTTPS"), scheme
    if https is not None:
        if https == "on":
            return "https"
        https = https.lower()
        if https in HTTPS_ON:
            return "https"
        if https in HTTPS_OFF:
            return "http"
    scheme = value_of(environ, "REQUEST_SCHEME")
    if scheme is None or scheme == "http":
        return "http"
    return "https" if scheme.lower() == "https" else "http"


cdef int complete_path(dict environ) except -1:
    """SCRIPT_NAME, PATH_INFO and QUERY_STRING are always there.

    An empty PATH_INFO is derived from REQUEST_URI. Only what is taken from there is unquoted:
    everything else arrives decoded already.
    """
    cdef object query = value_of(environ, "QUERY_STRING")
    cdef object path_info = value_of(environ, "PATH_INFO")
    cdef object request_uri, path = "", from_uri = ""
    if not PyDict_Contains(environ, "SCRIPT_NAME"):
        PyDict_SetItem(environ, "SCRIPT_NAME", "")
    cdef bint no_query = is_empty(query), no_path_info = is_empty(path_info)
    if not no_query and not no_path_info:
        return 0
    request_uri = value_of(environ, "REQUEST_URI")
    if request_uri is not None and (no_path_info or has_query(request_uri)):
        path, _, from_uri = request_uri.partition("?")
    if no_query and (from_uri or query is None):
        PyDict_SetItem(environ, "QUERY_STRING", from_uri)
    if no_path_info:
        script_name = value_of(environ, "SCRIPT_NAME")
        PyDict_SetItem(environ, "PATH_INFO", path_below(script_name, path) if path else "")
    return 0


cdef bint has_query(object uri) except -1:
    if not PyUnicode_CheckExact(uri):
        return True  # whatever it is, partition() will tell
    return PyUnicode_FindChar(uri, c'?', 0, PyUnicode_GET_LENGTH(uri), 1) >= 0


cdef str path_below(object script_name, object path):
    """What follows script_name in the raw path of a request, "" when it does not begin so."""
    cdef str decoded = decoded_path(path)
    if script_name.endswith("/"):
        script_name = script_name[:-1]
    if decoded.startswith(script_name):
        below = decoded[len(script_name):]
        if below.startswith("/"):
            return below
    return ""


cdef str decoded_path(object path):
    """The raw path of a request as web servers hand it on: decoded once and without dot segments;
    "" where there is none. It ends at a fragment, which no request should have: nginx and lighttpd
    leave it out of the path that their rules are asked about, and what is behind it could lead
    anywhere else ("/public#/../admin")."""
    path = path.partition("#")[0]
    if not path.startswith("/"):
        # The absolute form, "http://host/path"; or "*", which names no path.
        _, separator, rest = path.partition("://")
        slash = rest.find("/")
        if not separator or slash < 0:
            return ""
        path = rest[slash:]
    return remove_dot_segments(unquote_to_bytes(path.encode("latin-1")).decode("latin-1"))


cdef str remove_dot_segments(str path):
    """RFC 3986 section 5.2.4, as web servers do before they split the path. Where there are any,
    two slashes are one: it has to be the path that a web server's rules were asked about, and those
    that do not merge slashes send their own path."""
    if "/." not in path:
        return path
    kept = [""]
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    if segments[-1] in ("", ".", ".."):
        kept.append("")
    return "/".join(kept)


cdef bint same_path(str one, str other) except -1:
    """Whether two decoded paths may well be of the same request, one of them as a web server has
    cleaned it or not: whether it merges slashes, takes dot segments away, decodes %2F."""
    return cleaned(one) == cleaned(other)


cdef str cleaned(str path):
    path = path.replace("%2F", "/").replace("%2f", "/").partition("#")[0]
    return SLASHES.sub("/", remove_dot_segments(path))


# ---- where the application is mounted --------------------------------------------------------


def checked_mount(mount):
    """A mount as environs have it, of what somebody wrote; None for None.

    Args:
        mount: A decoded path such as "/app"; "" and "/" are the root.

    Raises:
        ConfigurationError: No path that an application can be at home at.
    """
    if mount is None or mount in ("", "/"):
        return mount and ""
    if not isinstance(mount, str) or not mount.startswith("/") or NO_MOUNT.search(mount):
        raise ConfigurationError(
            f"mount={mount!r} is not a path such as /app: it begins with / and does not end with"
            " it, and is written as it is, without %"
        )
    return mount.encode("utf-8", "surrogateescape").decode("latin-1")


cdef bint mount_path(dict environ, str mount) except -1:
    """Make a mount the SCRIPT_NAME, and what follows it in the path the PATH_INFO, wherever the web
    server has put which part of the path. False, and nothing done, for a path outside of it."""
    cdef object script_name = value_of(environ, "SCRIPT_NAME")
    cdef object path_info = value_of(environ, "PATH_INFO")
    cdef str path, below
    if is_empty(script_name):
        if is_empty(path_info):
            # nginx's scgi_params have the decoded path as this alone.
            path_info = value_of(environ, "DOCUMENT_URI")
        path = "" if path_info is None else path_info
    elif is_empty(path_info):
        path = script_name
    else:
        path = joined_path(environ, script_name, path_info)
    below = below_mount(path, mount)
    if below is None:
        below = below_by_uri(environ, path, mount)
        if below is None:
            if mount:
                return False
            below = path  # nothing is outside the root, "*" of an OPTIONS neither
    elif mount and is_stripped(environ, path, mount):
        below = path
    PyDict_SetItem(environ, "SCRIPT_NAME", mount)
    PyDict_SetItem(environ, "PATH_INFO", below)
    return True


cdef str below_by_uri(dict environ, str path, str mount):
    """What follows the mount in REQUEST_URI, of which the web server has made another path; None
    when it does not begin so."""
    cdef object uri = value_of(environ, "REQUEST_URI")
    cdef str raw
    if uri is None:
        return None
    raw = decoded_path(uri.partition("?")[0])
    # Where the web server has sent on what the client wrote, its rules were asked about just that:
    # cleaned by us, "/x/../app/admin" would come by a rule for "/app/admin".
    return None if same_path(raw, path) else below_mount(raw, mount)


cdef bint is_stripped(dict environ, str path, str mount) except -1:
    """Whether a path that begins with the mount is what the web server has left of one that had it
    twice: "/app/admin" of "/app/app/admin"."""
    cdef object uri = value_of(environ, "REQUEST_URI")
    cdef str raw
    if uri is None or len(uri) < len(mount) + len(path):
        return False
    raw = uri.partition("?")[0]
    if len(raw) < len(mount) + len(path):
        return False  # as nearly always
    return same_path(decoded_path(raw), mount + path)


cdef str joined_path(dict environ, str script_name, str path_info):
    """The whole path, of both its parts."""
    cdef object uri
    if script_name == path_info:
        # Recipes for nginx have the whole path in both; a path may be twice the same, too.
        uri = value_of(environ, "REQUEST_URI")
        if uri is not None and same_path(decoded_path(uri.partition("?")[0]), path_info):
            return path_info
    if script_name.endswith("/") and path_info.startswith("/"):
        script_name = script_name[:-1]
    return script_name + path_info


cdef str below_mount(str path, str mount):
    """What follows a mount in a decoded path, None when it is not below it."""
    cdef Py_ssize_t size = len(mount)
    if not path.startswith(mount):
        return None
    if len(path) == size:
        return "" if size else None
    return path[size:] if path[size] == "/" else None
