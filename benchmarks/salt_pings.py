"""Run by Salt's own interpreter: for each line on standard input, a number, as many pings; answers with their seconds.

python salt_pings.py CONFIGURATION MINION
"""

import json
import sys
import time

import salt.client  # type: ignore[import-not-found]  # it is in Salt's own environment


def main() -> None:
    configuration, minion = sys.argv[1:]
    client = salt.client.LocalClient(c_path=configuration)
    while not client.cmd(minion, "test.ping", timeout=5):
        time.sleep(0.2)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            if client.cmd(minion, "test.ping", timeout=60) != {minion: True}:
                sys.exit("the minion did not answer")
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
