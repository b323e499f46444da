#!/usr/bin/env python3
"""Verifies an export of meshd's audit log: verify.py FILE [--key did:key:z6Mk…] [--witness FILE]

Written from docs/audit.md alone: standard library, and c2sp.py, erased.py and ed25519.py beside it. Prints `verified N records, root …`,
or names the first bad record and exits with 1.
"""
import argparse
import base64
import json
import re
import sys

from c2sp import Keys, are_members, continues, included, is_succession, log_keys, need, node, sha
from erased import Erased, body


class Bad(Exception):
    """What is wrong, beginning with `record N: `, `succession N: `, `checkpoint: ` or `witness: `."""


def bad(number, why, what="checkpoint"):
    raise Bad(f"{what if number is None else f'record {number}'}: {why}")


def parse(text):
    def unique(pairs):
        need(len(dict(pairs)) == len(pairs), "duplicate member")
        return dict(pairs)
    return json.loads(text, object_pairs_hook=unique)


class Checker:
    def __init__(self, keys, witnesses):
        self.keys, self.witnesses, self.nodes, self.rotated = keys, witnesses, [], 0
        self.count, self.last, self.log, self.seqs = 0, None, None, {}
        self.agent, self.block, self.proofs, self.erased = None, [], [], Erased(parse)

    def number(self):
        return self.last[0] + 1 if self.agent and self.last else self.count

    def root(self):
        root = self.nodes[-1] if self.nodes else sha(b"")
        for left in reversed(self.nodes[:-1]):
            root = node(left, root)
        return root

    def line(self, text):
        at = self.number()
        if text.startswith('{"erasure"'):
            return self.erased.line(text, at, self.log, bad)
        try:
            need(not self.erased.told, "it stands behind what was erased of those before it")
            line = parse(text)
            if self.agent is None and isinstance(line, dict) and isinstance(line.get("record"), str):
                self.agent = "proof" in line
            header, salt, payload = parse(line["record"]), line["salt"], line["payload"]
            need(not set(line) - {"record", "salt", "payload", "leaf", "block", "proof"}, "unknown member")
            position, seq = header["position"], header["seq"]
            need(all(isinstance(header[m], str) for m in ("ns", "log", "partition", "kind", "actor", "payload")), "header")
            need(isinstance(header["kv"], int) and header["v"] == 1 and isinstance(position, int), "another format")
            stamp = (header["time"], header["lc"])
            need(self.agent == ("proof" in line), "some records bear a proof and others do not")
            at = position if self.agent else self.count
            need(self.agent or position == self.count, f"it says position {position}")
            need(not self.agent or not self.last or position > self.last[0], "it is doubled or moved")
            need(not self.last or stamp > self.last[1], "its time is not after that of the record before it")
            need(header["log"] == (self.log or self.keys and self.keys.log or header["log"]), "it is of another log")
            body(header, salt, payload)
            leaf = sha(b"\x00" + line["record"].encode())
            need(line.get("leaf") in (None, leaf.hex()), "its header does not match its leaf hash")
            if self.agent:
                path = line["proof"]["path"]
                need(type(line["proof"]["index"]) is int, "its index is no whole number")
                need(line["proof"] == {"index": position, "path": path}, "its proof is for another record")
                need(all(len(h) == 64 and h == h.lower() for h in path), "its proof is malformed")
                self.proofs.append((position, leaf, [bytes.fromhex(h) for h in path], header.get("agent")))
            need(self.agent or seq == self.seqs.get(header["partition"], 0), "it is not the next of its partition")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad(at, error)
        self.last, self.log, self.count = (position, stamp), header["log"], self.count + 1
        self.erased.record(header, payload)
        if self.agent:
            return
        self.seqs[header["partition"]], rest, grown = seq + 1, self.count - 1, leaf
        while rest & 1:
            grown, rest = node(self.nodes.pop(), grown), rest >> 1
        self.nodes.append(grown)
        self.signed_block(line.get("block"), leaf)
        later = self.keys.later if self.keys else []
        if any(size == self.count and root != self.root() for size, root, *_ in later):
            bad(at, "it or one before it is not what both keys signed")
        self.rotated += header["kind"] == "key.rotated"
        if self.rotated > sum(size <= self.count for size, *_ in later):
            bad(at, "it says that another key took over, but the file holds no such succession")
        if any(size == self.count and root != self.root() for size, root in self.witnesses):
            bad(at, "it or one before it is not what the witness saw")

    def signed_block(self, text, leaf):
        self.block.append(leaf)
        first = self.count - len(self.block)
        if text is None:
            return len(self.block) == 256 and bad(self.count - 1, "the signed list of its block is missing")
        try:
            place, hashes = (self.keys or Keys(self.log)).note(text, "export-block")
            need(place == f"{first} {len(self.block)}" and len(hashes) == 64 * len(self.block), "it is of other records")
        except ValueError as error:
            bad(self.count - 1, f"the signed list of its block: {error}")
        for n, ours in enumerate(self.block):
            if ours.hex() != hashes[64 * n : 64 * n + 64]:
                bad(first + n, "the node signed another leaf hash for it")
        self.block = []

    def finish(self, last, fault):
        size, root = self.keys.checkpoint(last["checkpoint"])
        self.agent = "agent" in last if self.agent is None else self.agent
        if fault and not self.agent:
            raise fault
        if self.agent:
            self.finish_agent(last.get("agent"), size, root, fault)
        if self.log not in (None, self.keys.log):
            bad(self.last[0] if self.agent else 0, f"it is of log {self.log}")
        if not self.agent and self.count != size:
            bad(min(self.count, size), f"the checkpoint covers {size} records")
        if self.block:
            bad(self.count - 1, "the signed list of its block is missing")
        if not self.agent and (self.root() != root or "agent" in last):
            bad(None, "the records do not add up to the signed root")
        for seen, its_root in self.witnesses:
            if seen > size:
                bad(size, f"it is missing: the witness saw {seen} records, the end was cut off")
            if self.agent and not continues(last.get("consistency"), seen, its_root, size, root):
                bad(None, "the log does not continue what was seen", "witness")
        self.erased.finish(last, self.keys, size, root, bad)
        return self.count, root

    def finish_agent(self, said, size, root, fault):
        try:
            agent, of, signed = self.keys.note(said["note"], "export-agent")
            text = said["positions"]
            listed = [n for r in text.split(",") for n in range(int(r.split("-")[0]), int(r.split("-")[-1]) + 1)]
            need(of == f"{size} {root.hex()}" and signed == f"{len(listed)} {sha(text.encode()).hex()}", "of other records")
        except (ValueError, TypeError, KeyError) as error:
            raise fault or Bad(f"checkpoint: the list of the agent's records: {error}")
        for place, (position, leaf, path, of_agent) in zip(listed + [None] * len(self.proofs), self.proofs):
            if position != place:
                bad(position if place is None else min(place, position), "it is missing, added or moved")
            if of_agent != agent or included(position, size, leaf, path) != root:
                bad(position, "its proof does not lead to the signed root, or it is not the agent's")
        rest = listed[len(self.proofs) :]
        if fault or rest:
            raise Bad(f"record {rest[0]}: {fault or 'it is missing'}") if rest else fault


def verify(text, key, witness):
    notes, fault = re.findall("(?:.+\n)+\n(?:\u2014 .+\n)+", witness), None
    claims = [seen.split("\n") for seen in notes if not is_succession(seen)]
    claims, lines = [(int(seen[1]), base64.b64decode(seen[2])) for seen in claims], text.removesuffix("\n").split("\n")
    checker = Checker(log_keys(lines, parse, key, Bad), claims)
    for line in lines[:-1]:
        try:
            fault or checker.line(line)
        except Bad as error:
            fault = error
        if fault and checker.agent is False:
            raise fault
    try:
        last = parse(lines[-1])
        if "record" in last:
            raise fault or Bad(f"record {checker.number() + 1}: the file ends before the checkpoint")
        checker.keys = checker.keys or Keys(last["key"])
        need(are_members(last) and checker.keys.log == last["key"], "it is another key's, or has an unknown member")
        size, root = checker.keys.checkpoint(last["checkpoint"])
        need(all(end < size or (end, its) == (size, root) for end, its, *_ in checker.keys.later), "a later key signs")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        cut = '{"record"'.startswith(lines[-1][:9])
        raise fault or Bad(f"{f'record {checker.number()}' if cut else 'checkpoint'}: the file ends here: {error}")
    try:
        need(notes or not witness, "it is no checkpoint")
        checker.keys.agree(notes, size, root)
    except (ValueError, IndexError) as error:
        bad(None, error, "witness")
    return checker.finish(last, fault)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("file", "--key", "--witness"):
        arguments.add_argument(name)
    asked = arguments.parse_args()
    try:
        text, witness = (open(path, "rb").read().decode(errors="surrogateescape") if path else "" for path in (asked.file, asked.witness))
        count, root = verify(text, asked.key, witness)
    except Bad as error:
        sys.exit(str(error))
    print(f"verified {count} records, root {base64.b64encode(root).decode()}")


if __name__ == "__main__":
    main()
