"""Counts words, and sums counts."""
from collections import Counter
import json
import sys


def say(**message):
    print(json.dumps(message), flush=True)


def count(given):
    return {"name": given["name"], "counts": dict(Counter(given["text"].split()))}


def total(given):
    words = Counter()
    for one in given:
        words.update(one["counts"])
    return {"files": len(given), "words": dict(sorted(words.items()))}


NAME = "word-counter"
SKILLS = {"count-words": count, "sum-counts": total}

say(type="HANDSHAKE", payload={"name": NAME, "version": "1.0.0", "capabilities": list(SKILLS)})
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "TASK_REQUEST":
        payload = message["payload"]
        try:
            result = {"ok": True, "output": SKILLS[payload["action"]](payload["input"])}
        except ValueError as error:
            result = {"ok": False, "error": {"class": "refusal", "message": str(error), "retryable": False}}
        say(type="TASK_RESULT", task_id=message["task_id"], payload=result)
    elif message["type"] == "CONTROL" and message["payload"]["verb"] == "shutdown":
        break
