"""A worker's side of one job, with a job that runs between the worker's looks at two of its pipes."""

import subprocess
import sys
from pathlib import Path

#: Run by a process of its own, because a job's process is forked from the worker's.
WORKER = """
import select, sys
from pathlib import Path
from nodeagent.job_process import JobProcess, Phase
from nodeagent.messages import Begin
from nodeagent.script import prepare
from nodeagent.work import Work


class Sudden(JobProcess):
    def _drain(self, end, take):
        super()._drain(end, take)
        if self.phase is Phase.GATED:
            self.go()
            assert select.select([self._out], [], [], 60)[0], "the job prints nothing"


folder, shown = Path(sys.argv[1]), []
(folder / "key").write_text("hunter2")
header = 'descr = "x"\\nparams = {"key": {"type": "secret"}}\\n'
source = header + 'def action(key):\\n    print("it is", key, flush=True)\\n'
work = Work(job_id="j", script="s", source=source, queue="q", node_id="n", actor="user:a",
            params={"key": f"file:{folder}/key"})
job = Sudden(folder / "job", lambda job, lines, is_head: shown.extend(line.text for line in lines))
job.assign(Begin(work, 60.0, 1.0), prepare("s", source))
while not job.is_over:
    job.read(outputs=True)
    select.select(job.signs(), [], [], 60)
    job.reap()
job.finish()
print(shown)
"""


def test_a_secret_is_masked_although_it_is_printed_the_moment_it_is_known(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("['it is ***']\n", "")
