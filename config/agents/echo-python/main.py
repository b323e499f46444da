"""Answers each task with its input."""
import json
import sys


def say(**message):
    print(json.dumps(message), flush=True)


say(type="HANDSHAKE", payload={"name": "echo-python", "version": "1.0.0", "capabilities": ["echo-python"]})
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "TASK_REQUEST":
        output = message["payload"]["input"]
        say(type="TASK_RESULT", task_id=message["task_id"], payload={"ok": True, "output": output})
    elif message["type"] == "CONTROL" and message["payload"]["verb"] == "shutdown":
        break
