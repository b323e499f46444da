"""Writes drafts, and finds fault with them: a stand-in for two models that answer each other."""
import json
import sys


def say(**message):
    print(json.dumps(message), flush=True)


def write(given):
    before = given.get("before")
    draft = before["draft"] if before else f"On {given['topic']}."
    return {"draft": f"{draft} One more thought." if before else draft}


def critique(given):
    thoughts = given["draft"].count("thought")
    content = thoughts >= 2
    return {"content": content, "remarks": "good" if content else "say more"}


NAME = "author"
SKILLS = {"write-draft": write, "critique-draft": critique}

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
