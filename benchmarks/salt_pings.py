"""Run by Salt's own interpreter: for each line on standard input, a number, as many pings; answers with their seconds.

python salt_pings.py CONFIGURATION MINION
"""

import json
import sys
import time

import salt.client  # type: ignore[import-not-found]  # it is in Salt's own environment
import salt.exceptions  # type: ignore[import-not-found]

#: Seconds until the minion must have answered once: the master makes its keys first, then the minion asks again every
#: ten seconds whether its key was accepted.
START_WITHIN = 90.0


def main() -> None:
    configuration, minion = sys.argv[1:]
    client = _client(configuration, minion)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            if client.cmd(minion, "test.ping", timeout=60) != {minion: True}:
                sys.exit("the minion did not answer")
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


def _client(configuration: str, minion: str) -> salt.client.LocalClient:
    """One that the minion answers to. A client made before its master was there never finds it: so each try is new."""
    ends = time.monotonic() + START_WITHIN
    while True:
        client = salt.client.LocalClient(c_path=configuration)
        try:
            if client.cmd(minion, "test.ping", timeout=5):
                return client
            trouble = "no answer"
        except salt.exceptions.SaltException as error:
            trouble = str(error)
        if time.monotonic() > ends:
            sys.exit(f"the minion did not answer within {START_WITHIN:.0f} seconds: {trouble}")
        client.destroy()
        time.sleep(1.0)


if __name__ == "__main__":
    main()
