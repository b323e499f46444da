"""Answers incidents: detects, gathers, decides, acts, and takes back what it did."""
import json
import sys


def say(**message):
    print(json.dumps(message), flush=True)


def decide(given):
    found = [one for one in given["evidence"] if one]
    return {"action": "restart" if found else "wait", "because": [one["kind"] for one in found]}


def verify(given):
    if not given["helps"]:
        raise ValueError("the service has not recovered")
    return {"recovered": True}


NAME = "responder"
SKILLS = {
    "detect-incident": lambda given: {"incident": given["signal"] == "errors"},
    "gather-evidence": lambda given: {"kind": given["kind"], "found": f"{given['kind']} of {given['of']}"},
    "decide-action": decide,
    "act": lambda given: {"done": given["action"], "receipt": f"receipt-{given['action']}"},
    "take-back": lambda given: {"undone": given["receipt"]},
    "verify-recovery": verify,
}

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
