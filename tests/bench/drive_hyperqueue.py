"""Drives HyperQueue's server and one worker, as its wheel brings them.

Takes orders as lines of JSON on standard input and answers each with one line.
It measures; it judges nothing.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

STAMP_LIMIT_S = 30


def wait_for_stamp(path):
    """Nanoseconds that a worker has written to a file of its own."""
    end = time.monotonic() + STAMP_LIMIT_S
    while time.monotonic() < end:
        if path.exists():
            text = path.read_text()
            if text.endswith("\n"):
                return int(text)
        time.sleep(0.002)
    raise TimeoutError(f"no worker wrote {path}")


def start(client, order):
    """From submit to a worker's first instruction, one lone task at a time. The
    worker ends within the pause before the next one."""
    folder = Path(order["folder"])
    latencies_ns = []
    for number in range(order["jobs"]):
        path = folder / f"hyperqueue-{number}"
        path.unlink(missing_ok=True)
        job = Job()
        job.program([order["worker"], "stamp", str(path)], stdout=None, stderr=None)
        time.sleep(random.uniform(*order["pause_s"]))
        began_ns = time.time_ns()
        client.submit(job)
        latencies_ns.append(wait_for_stamp(path) - began_ns)
    return {"latencies_ns": latencies_ns}


def noop(client, order):
    """Many tasks that do nothing, as one job. The client looks for a job's end
    once a second, so the end is told by a last task that depends on all."""
    path = Path(order["folder"]) / "hyperqueue-last"
    path.unlink(missing_ok=True)
    job = Job()
    tasks = [job.program(["/bin/true"], stdout=None, stderr=None) for _ in range(order["tasks"])]
    job.program([order["worker"], "stamp", str(path)], stdout=None, stderr=None, deps=tasks)
    began_ns = time.time_ns()
    submitted = client.submit(job)
    client.wait_for_jobs([submitted])
    return {"seconds": (wait_for_stamp(path) - began_ns) / 1e9}


def main():
    folder, cores = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    # What the server prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with LocalCluster(server_dir=str(folder)) as cluster:
        cluster.start_worker(WorkerConfig(cores=cores))
        client = cluster.client()
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            answer = {"start": start, "noop": noop}[order["do"]](client, order)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
