#!/usr/bin/env python3
"""Checks what agents signed, in an export of meshd's audit log that verify.py has found to be whole: signed.py FILE

Written from docs/audit.md and docs/KLP.md alone. Prints `TASK ATTEMPT KEY PAYLOAD` for each result that is an agent's own word,
`TASK asked KEY PAYLOAD` for each task that its submitter signed (in an export of the whole log, which says whose key that is), and
exits with 1 at the first record that says otherwise than was signed.
"""
import json
import re
import sys

import ed25519
import klp


def plain(address):
    """An agent or a user has one name in all spellings of its address."""
    for kind in ("agent", "user"):
        address = re.sub(rf"^kai://(node\.[^/]+/)?{kind}\.", f"{kind}:", address)
    return re.sub(r"^k?[A-Za-z]+:(?<!user:)", "agent:", address)


def main(path):
    proven, said, owners = {}, {}, {}
    with open(path, encoding="utf-8") as log:
        lines = [json.loads(line) for line in log]
    for line in lines:
        if line.get("payload") is None:
            continue
        header, event = json.loads(line["record"]), json.loads(line["payload"])
        fact = event[header["kind"]] if isinstance(event, dict) else {}
        agent, at = header.get("agent"), header["position"]
        if header["kind"] == "handshaken" and fact.get("proven"):
            key, told = fact["proven"]["key"], fact["proven"]
            text = "\n".join(("KLP/1 handshake", told["node"], agent, str(fact["epoch"]), told["challenge"]))
            if not ed25519.holds(key, text.encode(), told["proof"]):
                sys.exit(f"record {at}: the agent did not prove its key")
            proven[agent] = key
        elif header["kind"] == "message_sent" and fact["envelope"]["auth"]["key"] == proven.get(agent):
            line, key = fact["envelope"], proven[agent]
            if klp.verdict(line, key) != "ok":
                sys.exit(f"record {at}: not signed by the key that the agent proved")
            if line["type"] == "TASK_RESULT":
                said[line["task_id"], line["attempt"]] = line["payload"]
                print(line["task_id"], line["attempt"], key, klp.canonical(line["payload"]))
        elif header["kind"] == "task.submitted" and fact.get("envelope"):
            line, spec = fact["envelope"], fact["spec"]
            key = line["auth"]["key"]
            if klp.verdict(line, key) != "ok" or plain(owners.get(key, line["from"])) != plain(line["from"]):
                sys.exit(f"record {at}: not signed by its sender")
            asked = line["payload"]
            if any(asked.get(field) != spec.get(field) for field in ("input", "approval", "budget", "claims")):
                sys.exit(f"record {at}: not the task that its sender signed")
            print(header["task"], "asked", key, klp.canonical(asked))
        elif header["kind"] == "key.registered":
            owners[fact["key"]] = fact["owner"]
        elif header["kind"] == "task.succeeded" and agent in proven:
            if said.get((header["task"], fact["attempt"]), {}).get("output") != fact["output"]:
                sys.exit(f"record {at}: not the result that the agent signed")


if __name__ == "__main__":
    main(sys.argv[1])
