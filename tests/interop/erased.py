"""Payloads that are missing from an export of meshd's audit log: what the log says was erased, and what is withheld."""
from c2sp import consistent, included, need, sha, unhex


def said(header, payload, parse):
    """What a record says is erased, as a test of what stood before it; None if it says nothing of the kind."""
    place, kind, end = header["partition"], header["kind"], header["position"]
    if place == "memory" and kind == "memory.purged" and header.get("agent"):
        return lambda at, it: at < end and place == it["partition"] and it["kind"] == "memory.set" and it.get("agent") == header["agent"]
    if place != "retention" or payload is None or kind not in ("tasks.removed", "records.doomed", "erasure.ordered"):
        return None
    event = parse(payload)[kind]
    if kind == "tasks.removed":
        return lambda at, it: at < end and (it["partition"] == "tasks/0" or it["kind"].startswith("call.")) and it.get("task") in event["tasks"]
    if kind == "records.doomed":
        return lambda at, it: at < end and at in event["records"]
    # Orders of earlier versions did not name the messages that went by them.
    return None if event.get("names") else lambda at, it: at < end and it["partition"] == "bus"


def body(header, salt, payload):
    need((salt is None) == (payload is None), "of salt and payload only one is there")
    if salt is not None:
        need(len(salt) == 32 and salt == salt.lower(), "its salt is malformed")
        committed = "sha256:" + sha(bytes.fromhex(salt) + payload.encode()).hex()
        need(committed == header["payload"], "its salt and payload are not those that it commits to")


class Erased:
    def __init__(self, parse):
        self.parse, self.open, self.told = parse, {}, []

    def record(self, header, payload):
        if payload is None:
            self.open[header["position"]] = header
        return self.settle(header, payload)

    def settle(self, header, payload):
        names, before = self.open and said(header, payload, self.parse), len(self.open)
        self.open = {at: it for at, it in self.open.items() if not (names and names(at, it))}
        return len(self.open) < before

    def line(self, text, at, log, bad):
        """A record that says what was erased, and stands behind those that it is about."""
        try:
            line = self.parse(text)
            need(set(line) == {"erasure", "salt", "payload", "proof"} and set(line["proof"]) == {"index", "path"}, "its members")
            header, index, path = self.parse(line["erasure"]), line["proof"]["index"], line["proof"]["path"]
            at = header["position"]
            need(header["log"] == log and type(index) is int and index == at, "it is of another log, or its proof of another record")
            need(not self.told or self.told[-1][0] < at, "it is doubled or moved")
            body(header, line["salt"], line["payload"])
            self.told.append((at, sha(b"\x00" + line["erasure"].encode()), [unhex(h) for h in path]))
            need(self.settle(header, line["payload"]), "it says of no record before it that it was erased")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad(at, error)

    def finish(self, last, keys, size, root, bad):
        try:
            later, end, top = last.get("later"), size, root
            if later is not None:
                need(set(later) == {"note", "path"}, "unknown member")
                where = keys.note(later["note"], "export-later")
                end, top = where[0].split(" ")
                need(len(where) == 1 and str(int(end)) == end, "it has no size and root")
                end, top = int(end), unhex(top)
                need(consistent(size, root, end, top, [unhex(h) for h in later["path"]]), "it does not continue the checkpoint's")
            withheld, said = last.get("withheld"), []
            if withheld is not None:
                need(set(withheld) == {"note", "positions"}, "unknown member")
                of, signed = keys.note(withheld["note"], "export-withheld")
                text = withheld["positions"]
                said = [tuple(int(n) for n in (r.split("-") * 2)[:2]) for r in text.split(",")]
                many = sum(last - first + 1 for first, last in said)
                need(of == f"{size} {root.hex()}" and signed == f"{many} {sha(text.encode()).hex()}", "of other records")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            bad(None, error)
        for position, leaf, path in self.told:
            if included(position, end, leaf, path) != top:
                bad(position, "it says what was erased, but its proof does not lead to the root")
        for position in sorted(self.open):
            if not any(first <= position <= last for first, last in said):
                bad(position, "its payload is gone, and no record of the log says that it was erased")
