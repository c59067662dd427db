"""The floor: the program (its source has this name because every *.c of the tree is generated), and
the answers that it is given."""

import subprocess
from pathlib import Path
from typing import NamedTuple

import reference_codec
import wire

from bench.kinds import Missing, need
from fastfcgi.constants import REQUEST_COMPLETE, STDOUT

SOURCE = Path(__file__).with_name("floor.c.txt")


class Answer(NamedTuple):
    """A response in records, of which data[start:end] is sent `times` times."""

    data: bytes
    start: int
    end: int
    times: int


def answer_of(block: bytes, times: int = 1) -> Answer:
    """A response whose body is so many times this block."""
    header = f"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(block) * times}"
    end = reference_codec.encode_record(STDOUT, 1)
    end += reference_codec.encode_end_request(1, 0, REQUEST_COMPLETE)
    head = f"{header}\r\n\r\n".encode()
    if times == 1:  # in one record, if it fits
        return Answer(wire.stream(STDOUT, 1, head + block, 65528, end=False) + end, 0, 0, 0)
    before = reference_codec.encode_record(STDOUT, 1, head)
    repeated = wire.stream(STDOUT, 1, block, 32768, end=False)
    return Answer(before + repeated + end, len(before), len(before + repeated), times)


def compile_floor(folder: str) -> str:
    """The path of the program.

    Raises:
        Missing: There is no C compiler, or it fails.
    """
    program = f"{folder}/floor"
    command = [need("cc"), "-O2", "-o", program, "-x", "c", str(SOURCE)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise Missing(f"{SOURCE.name} does not compile: {done.stderr.decode(errors='replace')}")
    return program


def floor_command(program: str, folder: str, answer: Answer) -> list[str]:
    """What serves that answer at descriptor 0."""
    file = Path(folder, "answer")
    file.write_bytes(answer.data)
    return [program, "0", str(file), *map(str, answer[1:])]
