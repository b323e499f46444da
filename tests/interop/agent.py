#!/usr/bin/env python3
"""An agent of runtime `klp` on that second implementation. With a file `secret` beside it, it proves its key and signs its lines."""
import base64
import json
import os
import secrets
import sys
from datetime import datetime, timezone

import ed25519
import klp

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    path = os.path.join(HERE, "secret")
    secret = bytes.fromhex(open(path, encoding="ascii").read()) if os.path.exists(path) else None
    me = {"name": "interop", "version": "1.0.0", "capabilities": ["interop"], "hooks": ["node_key"]}
    if secret:
        me["key"] = ed25519.to_did(ed25519.public(secret))
    mine = me["challenge"] = secrets.token_hex(16)
    shaken, waiting = None, {}

    def say(kind, payload, **more):
        line = {"type": kind, "payload": payload, **more}
        if secret and shaken:
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            line = klp.sign({**shaken, "timestamp": now, "id": f"i{next(ids)}", **line}, secret)
        print(klp.canonical(line), flush=True)

    ids = iter(range(1, sys.maxsize))
    say("HANDSHAKE", me)
    for text in sys.stdin.buffer:
        message, sent = klp.decode(text)
        payload = message["payload"]
        if message["type"] == "HANDSHAKE":
            # Who is at the other end of the pipe: the node that signed, and proved its key by our challenge.
            told = (payload["node"], payload["agent"], str(payload["epoch"]), mine)
            text = "\n".join(("KLP/1 handshake of the node", *told)).encode()
            key = node = payload.get("key", payload["node"])
            if not ed25519.holds(key, text, payload["proof"]) or klp.verdict(sent, key) != "ok":
                sys.exit("the node did not prove its key")
        if message["type"] == "HANDSHAKE" and "challenge" in payload:
            parts = (payload["node"], payload["agent"], str(payload["epoch"]), payload["challenge"])
            signature = ed25519.sign(secret, "\n".join(("KLP/1 handshake", *parts)).encode())
            if os.path.exists(os.path.join(HERE, "forge")):
                signature = signature[:32] + bytes(31) + b"\x01"
            proof = "ed25519:" + base64.urlsafe_b64encode(signature).decode().rstrip("=")
            say("HANDSHAKE", {**me, "proof": proof})
        elif message["type"] == "HANDSHAKE":
            shaken = {"from": f"agent:{payload['agent']}", "to": message["from"], "epoch": payload["epoch"]}
        elif message["type"] == "TASK_REQUEST":
            asked = payload.get("input")
            if isinstance(asked, dict) and "query" in asked:
                query = f"q{next(ids)}"
                waiting[query] = message
                say("CAPABILITY_QUERY", {"capabilities": asked["query"]}, id=query)
                continue
            if isinstance(asked, dict) and "delegate" in asked:
                wanted = f"d{next(ids)}"
                waiting[wanted] = message
                say("TASK_REQUEST", asked["delegate"], id=wanted, task_id=message["task_id"])
                continue
            if asked == "node key":
                asked = node
            if isinstance(asked, dict) and "alert" in asked:
                say("SECURITY_ALERT", asked["alert"])
            if isinstance(asked, dict) and "tell" in asked:
                say("MESSAGE", asked["text"], to=asked["tell"])
            if isinstance(asked, dict) and "fail" in asked:
                failed = {"ok": False, "error": {"class": "refusal", "message": asked["fail"]}}
                say("TASK_RESULT", failed, task_id=message["task_id"], attempt=message["attempt"])
                continue
            say("TASK_RESULT", {"ok": True, "output": asked}, task_id=message["task_id"], attempt=message["attempt"])
        elif message["type"] == "TASK_RESULT":
            task = waiting.pop(message["in_reply_to"])
            say("TASK_RESULT", payload, task_id=task["task_id"], attempt=task["attempt"])
        elif message["type"] == "CAPABILITY_REPLY":
            task = waiting.pop(message["in_reply_to"])
            say("TASK_RESULT", {"ok": True, "output": payload}, task_id=task["task_id"], attempt=task["attempt"])
        elif message["type"] == "MESSAGE":
            if "in_reply_to" not in message:
                say("MESSAGE", {"heard": payload}, to=message["from"], in_reply_to=message["id"])
        elif message["type"] == "ERROR":
            print(json.dumps(payload), file=sys.stderr, flush=True)
        elif message["type"] == "CONTROL" and payload["verb"] == "node_key":
            node = payload["args"]["key"]
        elif message["type"] == "CONTROL" and payload["verb"] == "shutdown":
            return


if __name__ == "__main__":
    main()
