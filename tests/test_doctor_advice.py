"""What the doctor advises is what `fastfcgi config` prints."""

import re

import pytest

from fastfcgi import cli
from fastfcgi.doctor_advice import lines


@pytest.mark.parametrize("mount", ["", "/wsgi", "/a.b/c"])
@pytest.mark.parametrize("address", ["unix:/run/app/app.sock", "127.0.0.1:9000"])
def test_apache(capsys: pytest.CaptureFixture[str], mount: str, address: str) -> None:
    """The same lines, so that who has the one finds his way in the other."""
    assert cli.main(["config", "apache", "--mount", mount or "/", "--address", address]) == 0
    config = [line.strip() for line in capsys.readouterr().out.splitlines()]
    paths = lines("paths", "apache", mount, address)
    settings = [line.strip() for line in paths if line.strip().startswith("ProxyFCGISetEnvIf")]
    assert len(settings) == 2 and set(settings) <= set(config)
    for key in ("http-spoken", "scgi-spoken"):
        (advice,) = lines(key, "apache", mount, address)[1:]
        found = re.fullmatch("  In (<.*>): (ProxyPass .*)  in the place of .*://", advice)
        assert found is not None
        assert found[1] in config and f"{found[2]} enablereuse=on" in config
    assert "SetHandler" not in " ".join([*paths, *lines("buffered", "apache", mount, address)])
