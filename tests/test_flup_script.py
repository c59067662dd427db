"""`python -m fastfcgi.flup SCRIPT`: scripts cannot tell it from `python SCRIPT`, but for flup."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("how a process ends is told apart by signals", allow_module_level=True)

from processes import DEADLINE, environment

# What of a script's surroundings can be compared; addresses are no part of it.
PROBE = '''"""Its docstring."""
import json, sys, __main__
import beside
names = {name: str(value).partition(" at 0x")[0] for name, value in vars(__main__).items()}
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "names": {k: v for k, v in sorted(names.items()) if k != "names"},
    "main": vars(__main__) is globals(),
    "name": __name__,
    "frames": sys._getframe().f_code.co_filename,
}))
'''


def run(*command: str | Path, folder: Path, flup: bool, **env: str) -> subprocess.CompletedProcess:
    """Run a script by Python itself, or by the module."""
    options = [word for word in command if word in ("-P", "-u")]
    words = [str(word) for word in command if word not in options]
    module = ["-m", "fastfcgi.flup"] if flup else []
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env}
    return subprocess.run(
        [sys.executable, *options, *module, *words],
        cwd=folder,
        env=environment(env),
        capture_output=True,
        timeout=DEADLINE,
    )


def both(*command: str | Path, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run it either way; the same has to come of it."""
    ours, own = (run(*command, folder=folder, flup=flup, **env) for flup in (True, False))
    assert (ours.returncode, ours.stdout) == (own.returncode, own.stdout), ours.stderr.decode()
    assert ours.stderr.decode() == own.stderr.decode()
    return ours


@pytest.fixture
def script(tmp_path):
    """Writes a script into a folder, beside a module and below the folder where it is run."""

    def write(text, name="site/app.fcgi"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "beside.py").touch()
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# ---------------------------------------------------------------------------- surroundings


@pytest.mark.parametrize("arguments", [[], ["one", "--two", "-m", ""]])
def test_surroundings(script, tmp_path, arguments):
    path = script(PROBE)
    seen = json.loads(both(path, *arguments, folder=tmp_path).stdout)
    assert seen["argv"] == [str(path), *arguments]
    assert seen["path"][0] == str(path.parent)
    assert seen["name"] == "__main__" and seen["main"]


def test_by_a_relative_path(script, tmp_path):
    path = script(PROBE)
    seen = json.loads(both("site/app.fcgi", folder=tmp_path).stdout)
    assert seen["argv"] == ["site/app.fcgi"]
    assert seen["names"]["__file__"] == str(path)


def test_by_a_link_in_another_folder(script, tmp_path):
    """The modules beside the script are found, not those beside the link."""
    path = script(PROBE)
    link = tmp_path / "cgi-bin" / "link.fcgi"
    link.parent.mkdir()
    link.symlink_to(path)
    seen = json.loads(both(link, folder=tmp_path).stdout)
    assert seen["path"][0] == str(path.parent)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="an option of Python 3.11")
def test_where_python_is_to_leave_folders_out(script, tmp_path):
    assert b"beside" in both("-P", script(PROBE), folder=tmp_path).stderr


def test_an_encoding_and_bytes_that_are_none(script, tmp_path):
    text = "# coding: latin-1\nprint(ascii('\xe9'))\n".encode("latin-1")
    assert both(script(text), folder=tmp_path).stdout == b"'\\xe9'\n"
    done = run(script(b"print('\xff')"), folder=tmp_path, flup=True)
    assert done.returncode == 1
    assert b"app.fcgi" in done.stderr and b"SyntaxError: " in done.stderr


# ------------------------------------------------------------------------------------- ends

THREAD = """
import threading
def f():
    import __main__
    gate.wait()
    print(__main__.gate is gate)
gate = threading.Event()
threading.Thread(target=f).start()
gate.set()
"""

ENDS = {
    "nothing": ("x = 1", 0),
    "exit": ("import sys; sys.exit()", 0),
    "a number": ("import sys; sys.exit(3)", 3),
    "a text": ("import sys; sys.exit('words')", 1),
    "an exception": ("def f(): raise ValueError('words')\nf()", 1),
    "one from a module": ("import json\njson.loads('{')", 1),
    "a cause": ("try: 1/0\nexcept ZeroDivisionError as e: raise KeyError from e", 1),
    "a syntax error": ("x =\n", 1),
    "another one later": ("eval('x =')", 1),
    "an interrupt": ("raise KeyboardInterrupt", -2),
    "the system": ("import os; os._exit(4)", 4),
    "a hook": ("import sys\nsys.excepthook = lambda *a: print(a[0], a[1], a[2].tb_lineno)\n1/0", 1),
    "atexit": ("import atexit; atexit.register(print, 'the end')\n1/0", 1),
    "a thread": (THREAD, 0),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends(script, tmp_path, name):
    """The same status, output and traceback; the line of the traceback is the script's."""
    text, status = ENDS[name]
    done = both(script(text), folder=tmp_path)
    assert done.returncode == status
    assert b"fastfcgi" not in done.stderr


def test_pickles_of_its_classes(script, tmp_path):
    text = "import pickle\nclass C: pass\nprint(pickle.loads(pickle.dumps(C)) is C)"
    assert both(script(text), folder=tmp_path).stdout == b"True\n"


def test_no_script(tmp_path):
    done = run(folder=tmp_path, flup=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"usage: python -m fastfcgi.flup SCRIPT [ARGS...]\n"
    done = run("--help", folder=tmp_path, flup=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: ")


def test_a_script_that_is_not_there(tmp_path):
    assert both("none.py", folder=tmp_path).returncode == 2
