"""Any program, with its arguments; never a shell in between unless it is the program."""

import subprocess
from typing import Any

descr = "Runs a program with arguments. Only where the owner of the node lets the agent do so."
organization = "fleetbus"
category = "administration"
queue = "io"
requires = ("shell",)
params = {
    "argv": {"descr": 'the program and its arguments, one each, as in ["ls", "-l", "/tmp"]'},
    "directory": {"descr": "where to run it; otherwise in an empty directory that is removed afterwards"},
    "input": {"descr": "text for its standard input"},
}


def action(argv: list[str], directory: str = "", input: str = "") -> dict[str, Any]:
    if not argv or not all(isinstance(argument, str) for argument in argv):
        raise SystemExit('argv must be a list of texts, the program first, as in ["ls", "-l"]')
    try:
        # its output goes out line by line as the output of the job
        ended = subprocess.run(argv, cwd=directory or None, input=input.encode(), check=False)
    except OSError as error:
        raise SystemExit(f"cannot run {argv[0]}: {error.filename}: {error.strerror}") from None
    if ended.returncode:
        raise SystemExit(f"{argv[0]} ended with {outcome(ended.returncode)}")
    return {"exit_code": 0}


def outcome(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"
