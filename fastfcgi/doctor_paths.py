"""Does SCRIPT_NAME name where the application is, and PATH_INFO what follows, decoded once?"""

from collections.abc import Iterator

from fastfcgi.doctor_visit import NotTold, Visit
from fastfcgi.findings import Finding, note, ok, wrong

_LINKS = "links and redirects of the application will be wrong"


def check_paths(visit: Visit) -> Iterator[Finding]:
    """Ordinary paths first; odd ones only if these are right."""
    environ = visit.environ("/doctor/x/y")
    script, info = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
    mount, rest = visit.site.mount, visit.site.rest + "/doctor/x/y"
    got = f"SCRIPT_NAME is {script!r} and PATH_INFO {info!r}"
    wanted = f"they should be {mount!r} and {rest!r}"
    found = _misfit(script, info, mount, rest)
    if found:
        key, what = found
        yield wrong(key, f"{what}: {got}, {wanted}", *visit.advice("paths"))
        return
    yield ok("paths", got)
    yield from _top(visit)
    yield from _decoding(visit)
    yield from _odd(visit)
    if mount and not visit.site.rest:
        yield from _neighbour(visit)


def _misfit(script: str, info: str, mount: str, rest: str) -> tuple[str, str] | None:
    """A key for what is wrong with the two, and what follows from it; None if nothing is."""
    whole = mount + rest
    first, _, after = rest[1:].partition("/")
    if (script, info) == (mount, rest):
        return None
    if script == whole:
        return "script-name-whole", f"the whole path is in SCRIPT_NAME, {_LINKS}"
    if (script, info) == (f"{mount}/{first}", f"/{after}"):
        return "first-segment", f"the first segment of the path is in SCRIPT_NAME, {_LINKS}"
    if mount and not script:
        if info == whole:
            return "mount-not-split", "the mount is in PATH_INFO, the application will not find it"
        if info == rest:
            return "mount-lost", f"the mount was cut off, nobody told the application: {_LINKS}"
    if script + info == whole:
        return "split-elsewhere", f"the path is split in the wrong place, {_LINKS}"
    return "path-changed", "the path was rewritten on its way"


def _top(visit: Visit) -> Iterator[Finding]:
    """The application's own root: with a slash, and at a mount without one."""
    site = visit.site
    for target in ["", "/"] if site.path else ["/"]:
        path = site.rest + target
        try:
            environ = visit.environ(target)
        except NotTold as error:
            location = error.answer.header("Location") if error.answer else ""
            if target == "" and error.status in (301, 302, 307, 308) and location:
                yield note("top", f"{site.url('')} is redirected to {location}")
                continue
            text = f"{site.url(target)} does not reach the application: {error}"
            yield wrong("top", text, *visit.advice("not-reached"))
            continue
        script, info = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
        if (script, info) != (site.mount, path):
            text = (
                f"GET {site.path + target} arrives as {script!r} and {info!r}, it should be"
                f" {site.mount!r} and {path!r}: that may end in redirects without end"
            )
            yield wrong("top", text, *visit.advice("paths"))
            return


def _decoding(visit: Visit) -> Iterator[Finding]:
    before = visit.site.rest + "/doctor/"
    for target, expected, key, what in (
        ("a%20b", "a b", "space", "a space"),
        ("%C3%BC", "\xc3\xbc", "utf-8", "a letter in UTF-8"),
        ("%2541", "%41", "percent", "a percent sign"),
        ("a+b", "a+b", "plus", "a plus sign"),
    ):
        try:
            info = visit.environ(f"/doctor/{target}").get("PATH_INFO", "")
        except NotTold as error:
            # A percent sign is rare enough in names to live without.
            level = note if key == "percent" else wrong
            yield level("path-refused", f"a path with {what}, {target}, is refused: {error}")
            continue
        found = info.removeprefix(before)
        if found == expected:
            yield ok(key, f"{what} in a path, {target}, arrives decoded once")
        elif found.partition("?")[0] == target:
            text = f"{target} arrives as it is: paths with {what} will not be found"
            yield wrong("path-not-decoded", text, *visit.advice("paths"))
            return
        elif (key, found) == ("percent", "A"):
            text = "paths are decoded twice, %2541 arrives as A: a name with % cannot be had"
            yield wrong(
                "path-decoded-twice",
                text,
                "Some rewrite rule takes a decoded path for an encoded one, or a middleware of the"
                " application unquotes PATH_INFO, which web servers have done already.",
            )
        else:
            wanted = before + expected
            text = f"a path with {what}, {target}, arrives as {info!r}, not as {wanted!r}"
            yield wrong("path-changed", text)


def _odd(visit: Visit) -> Iterator[Finding]:
    """What web servers do differently, and may."""
    before = visit.site.rest + "/doctor/"
    try:
        info = visit.environ("/doctor/a%2Fb").get("PATH_INFO", "")
        if info == f"{before}a%2Fb":
            yield note("slash", "a %2F in the path stays encoded, unlike all other characters")
    except NotTold as error:
        yield note("slash", f"a %2F in the path is refused: {error}", *visit.advice("slash"))
    try:
        info = visit.environ("/doctor//a").get("PATH_INFO", "")
        if info == f"{before}a":
            yield note("slashes", "two slashes in a row arrive as one")
    except NotTold as error:
        yield note("slashes", f"two slashes in a row are refused: {error}")
    for name in ("a.css", "a.php", ".a"):
        try:
            visit.environ(f"/doctor/{name}")
        except NotTold as error:
            text = f"paths like /{name} do not reach the application: {error}"
            yield note("extension", text, "That is right where the web server serves such files.")


def _neighbour(visit: Visit) -> Iterator[Finding]:
    """/wsgix is not below /wsgi."""
    path = f"{visit.site.path}x"
    try:
        environ = visit.environ(path, raw=True)
    except NotTold:
        return
    text = f"{path} reaches the application, too; SCRIPT_NAME is {environ.get('SCRIPT_NAME')!r}"
    yield note("neighbour", text)
