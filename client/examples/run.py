"""Runs a script on a node over HTTP, and prints its result.

FLEETBUS_URL=http://127.0.0.1:8000 FLEETBUS_TOKEN=fb_… python run.py SCRIPT NODE
"""

import json
import os
import sys

from fleetbus_client import HttpClient, Problem

script, node = sys.argv[1:]
client = HttpClient(os.environ["FLEETBUS_URL"])
try:
    run = client.run(script, {"node": node}, wait=60)
except Problem as problem:
    sys.exit(f"error: {problem}")
if run.job is None:
    sys.exit(f"job {run.id} has not ended yet")
print(json.dumps(run.job["result"]))
