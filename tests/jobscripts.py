"""Jumpscripts for tests."""

EMPTY = """
descr = "Does nothing."

def action():
    pass
"""

ANSWER = """
descr = "Answers."

def action(text: str = "42"):
    return {"answer": text}
"""

#: Leaves a mark outside, so that a test sees that it ran, and how often.
MARK = """
descr = "Leaves a mark."

def action(path: str, text: str):
    with open(path, "a") as file:
        file.write(text + "\\n")
"""

#: Leaves a mark at a path that begins where the agent's own folder lies.
MARK_BESIDE_AGENT = """
descr = "Leaves a mark beside the agent's folder."

def action(path: str, text: str):
    import os

    beside = os.path.dirname(os.path.dirname(os.environ["FLEETBUS_AGENT_SOCKET"]))
    with open(os.path.join(beside, path), "a") as file:
        file.write(text + "\\n")
"""

#: Leaves a mark, then waits until the file `until` is there.
MARK_AND_WAIT = """
import os, time

descr = "Leaves a mark and waits."
queue = "one"

def action(path: str, text: str, until: str):
    with open(path, "a") as file:
        file.write(text + "\\n")
    while not os.path.exists(until):
        time.sleep(0.01)
    return text
"""

FAIL = """
descr = "Fails."

def action():
    raise RuntimeError("the disk is on fire")
"""

PRINT = """
descr = "Prints."

def action(lines: int, text: str = "line"):
    for n in range(1, lines + 1):
        print(text, n)
"""

LARGE = """
descr = "Returns much."

def action(size: int):
    return "x" * size
"""

SHELL = """
descr = "Wants to be allowed."
requires = ["shell"]

def action():
    return "ran"
"""
