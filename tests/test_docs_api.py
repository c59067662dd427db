"""docs/api.md: the public names, their signatures and fields are those of the code."""

import inspect
import re

import pytest
from test_docs import DOCS, rows

import fastfcgi
from fastfcgi import client, prefork, reports, server, single

PAGE = DOCS / "api.md"


def first_cells(heading: str) -> list[str]:
    """The first cells of a section's tables."""
    return [cells[0] for cells in rows(PAGE, heading)]


def bare(function: object) -> str:
    """The parameters of a function, without self and annotations."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    kept = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(kept))


def calls(heading: str) -> dict[str, str]:
    """Name -> parameters, of all first cells that are calls."""
    cells = "\n".join(first_cells(heading))
    return dict(re.findall(r"^`([\w.]+)(\(.*\))`$", cells, re.MULTILINE))


def test_all_public_names() -> None:
    text = PAGE.read_text()
    for name in fastfcgi.__all__:
        assert f"`{name}`" in text or f"`fastfcgi.{name}" in text, name


def test_methods_of_the_server() -> None:
    said = calls("WSGIServer")
    for name, parameters in said.items():
        assert bare(getattr(server.WSGIServer, name)) == parameters, name
    defined = [*vars(server.WSGIServer), *vars(server.FlupNames)]
    methods = {
        name
        for name in defined
        if not name.startswith("_") and inspect.isfunction(getattr(server.WSGIServer, name))
    }
    assert methods - set(said) == {"resume_accepting"}  # which the server's own parts call


def test_attributes_of_the_server() -> None:
    made = fastfcgi.WSGIServer(lambda environ, start_response: [])
    (cell,) = [cell for cell in first_cells("WSGIServer") if cell.startswith("`application`")]
    names = re.findall("`([^`]+)`", cell)
    assert len(names) == 9
    for name in [*names, "addresses"]:
        getattr(made, name)


def test_other_servers_have_the_same_methods() -> None:
    for name, parameters in calls("WSGIServer").items():
        for module in (prefork, single):
            assert bare(getattr(module.WSGIServer, name)) == parameters, (module, name)


def test_exceptions() -> None:
    said = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(PAGE, "Exceptions")}
    found = {
        name: getattr(fastfcgi, name)
        for name in fastfcgi.__all__
        if inspect.isclass(getattr(fastfcgi, name))
        and issubclass(getattr(fastfcgi, name), Exception)
    }
    assert said == {name: kind.__bases__[0].__name__ for name, kind in found.items()}
    assert issubclass(fastfcgi.RequestAborted, ConnectionError)


@pytest.mark.parametrize("kind", [reports.AccessRecord, reports.SlowRequest])
def test_records(kind: type) -> None:
    """The fields in their order."""
    text = PAGE.read_text()
    (table,) = re.findall(rf"^\| {kind.__name__} \| \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.M)
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.M)) == kind._fields  # type: ignore[attr-defined]


def test_client() -> None:
    said = calls("Making requests")
    assert bare(client.Client) == said["Client"]
    assert bare(client.Client.request) == said["Client.request"]
    assert bare(client.request) == said["request"]
    names = [cell.strip("`") for cell in first_cells("Making requests")]
    errors = [name for name in names if "(" not in name and name != "Response"]
    assert errors[0] == "ClientError"
    defined = {name for name, kind in vars(client).items() if is_error(kind)}
    assert set(errors) == defined
    (row,) = [cells for cells in rows(PAGE, "Making requests") if cells[0] == "`Response`"]
    public = {name for name in vars(client.Response) if not name.startswith("_")}
    assert public < set(re.findall(r"`(\w+)", row[1]))


def is_error(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, client.ClientError)
