"""Celery on Redis, with Redis for its results: `worker` is started by celery itself, this file run alone is the client."""

import json
import os
import sys
import threading
import time

from celery import Celery

REDIS = f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/0"
app = Celery("celery_peer", broker=REDIS, backend=REDIS)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    task_track_started=False,
    result_expires=600,
    broker_connection_retry_on_startup=True,
)


@app.task(name="echo")
def echo(value):
    return value


PAYLOAD = "x" * 1024
SECONDS = float(os.environ.get("PEERS_SECONDS", "10"))
WARM_UP = float(os.environ.get("PEERS_WARM_UP", "2"))
IN_FLIGHT = [int(number) for number in os.environ.get("PEERS_IN_FLIGHT", "1,64,256").split(",")]


def loop(in_flight, seconds):
    took, began = [], time.perf_counter()
    end = began + seconds

    def one():
        while time.perf_counter() < end:
            at = time.perf_counter()
            echo.delay(PAYLOAD).get(timeout=120, interval=0.001)
            took.append((time.perf_counter() - at) * 1000)

    threads = [threading.Thread(target=one) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(took), time.perf_counter() - began


def main():
    loop(4, WARM_UP)
    for in_flight in IN_FLIGHT:
        took, seconds = loop(in_flight, SECONDS)
        row = {
            "system": "Celery + Redis",
            "durability": os.environ["DURABILITY"],
            "inFlight": in_flight,
            "rate": round(len(took) / seconds),
            "p50": round(took[len(took) // 2], 1),
            "p99": round(took[min(len(took) - 1, len(took) * 99 // 100)], 1),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
