"""C2SP signed notes and checkpoints, and the hashes of an RFC 9162 tree, in plain Python."""
import base64
import hashlib
import re

import ed25519


def need(holds, why):
    if not holds:
        raise ValueError(why)


def sha(data):
    return hashlib.sha256(data).digest()


def node(left, right):
    return sha(b"\x01" + left + right)


def note(text, log, key, first):
    """The lines of a C2SP note after its first, which must be `first`; signed by `key` in the name of `log`."""
    body, blank, signatures = text.rpartition("\n\n")
    point, held, lines = ed25519.from_did(key), False, body.split("\n")
    need(blank and point and signatures.endswith("\n"), "it is not a signed note")
    for line in signatures.split("\n")[:-1]:
        dash, signer, encoded = line.split(" ")
        signature = base64.b64decode(encoded, validate=True)
        need(dash == "\u2014" and base64.b64encode(signature).decode() == encoded, "a malformed signature")
        if signer == log and signature[:4] == sha(log.encode() + b"\n\x01" + point)[:4]:
            held = ed25519.verify(point, (body + "\n").encode(), signature[4:])
            need(held, f"the signature of {key} does not hold")
    need(held and lines[0] == first, f"it is not what {key} signed")
    return lines[1:]


def tree(size, root):
    """A size and a root, as they stand in a note."""
    need(re.fullmatch("0|[1-9][0-9]*", size) and int(size) < 2**64, "its size is malformed")
    decoded = base64.b64decode(root, validate=True)
    need(len(decoded) == 32 and base64.b64encode(decoded).decode() == root, "its root is malformed")
    return int(size), decoded


def is_succession(text):
    return text.split("\n")[0].endswith("/key-succession")


class Keys:
    """Who signs for a log: the key that is its name, and those that took over, as (size, root, key, compromised, note)."""
    def __init__(self, log):
        self.log, self.later = log, []

    def at(self, size):
        return ([self.log] + [key for end, _, key, *_ in self.later if end < size])[-1]

    def current(self):
        return self.at(2**64)

    def note(self, text, about):
        return note(text, self.log, self.current(), f"{self.log}/{about}")

    def checkpoint(self, text):
        size, root = tree(*text.split("\n")[1:3])
        note(text, self.log, self.at(size), self.log)
        return size, root

    def add(self, text):
        """Takes a succession in: it has to follow from what is there, and both keys have to have signed it."""
        signatures = text.rpartition("\n\n")[2].split("\n")
        number, where, old, new, why = text.split("\n")[1:6]
        lines = [note(text, self.log, key, f"{self.log}/key-succession") for key in (old, new)]
        by = [base64.b64decode(line.split(" ")[2])[:4] for line in signatures[:-1]]
        ids = [sha(self.log.encode() + b"\n\x01" + ed25519.from_did(key))[:4] for key in (old, new)]
        need(by == ids and len(lines[0]) == 5, "it has not exactly its six lines and two signatures")
        need(number == str(len(self.later) + 1) and why in ("rotated", "compromised"), f"it is number {number}, {why}")
        size, root = tree(*where.split(" "))
        need(old == self.current() and size > max([0] + [end for end, *_ in self.later]), "it does not follow")
        need(new not in [self.log] + [key for _, _, key, *_ in self.later], f"{new} was a key of this log before")
        self.later.append((size, root, new, why == "compromised", text))

    def agree(self, notes, size, root):
        """Compares what somebody else saw of the log, whose tree is of this size and root, with what its keys signed."""
        for text in [text for text in notes if is_succession(text) and text not in [known for *_, known in self.later]]:
            self.add(text)
            end, its_root, _, compromised, _ = self.later[-1]
            need(size < end and not compromised or (size, root) == (end, its_root), f"it saw another key take over at {end}")
        for text in [text for text in notes if not is_succession(text)]:
            self.checkpoint(text)


def log_keys(lines, parse, key, bad):
    """Takes the successions that a file begins with from its lines. `key` is its first or its last key, or None."""
    keys, number = None, 0
    try:
        while lines[0].startswith('{"succession"'):
            number += 1
            line = parse(lines.pop(0))
            need(set(line) == {"succession"} and lines, "unknown member, or nothing behind it")
            keys = keys or Keys(line["succession"].split("/")[0])
            keys.add(line["succession"])
        need(not keys or key in (None, keys.log, keys.current()), f"{key} is neither the first key nor the last")
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise bad(f"succession {number}: {error}")
    return keys or (key and Keys(key))


def included(index, size, root, path):
    """The root that a proof of inclusion leads to from a leaf (RFC 9162, 2.1.3.2), or None."""
    fn, sn = index, size - 1
    for sibling in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            root = node(sibling, root)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            root = node(root, sibling)
        fn, sn = fn >> 1, sn >> 1
    return root if sn == 0 else None


def consistent(size, root, later, its_root, path):
    """Whether the tree of `later` records continues the one of `size` (RFC 9162, 2.1.4.2)."""
    if not 0 < size <= later or (size == later) != (not path):
        return False
    if size == later:
        return root == its_root
    path = path if size & (size - 1) else [root] + path
    fn, sn = size - 1, later - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            first, second = node(sibling, first), node(sibling, second)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = node(second, sibling)
        fn, sn = fn >> 1, sn >> 1
    return first == root and second == its_root and sn == 0


def are_members(last):
    """Whether an export's last line has no member that is none."""
    proof = last.get("consistency") or {"size": 0, "path": []}
    known = {"checkpoint", "key", "agent", "withheld", "later", "consistency"}
    return not set(last) - known and set(proof) == {"size", "path"} and type(proof["size"]) is int


def continues(proof, seen, its_root, size, root):
    """Whether an export of this size agrees with a smaller tree that was seen, as far as its proof, if any, tells."""
    if seen == size:
        return its_root == root
    return not proof or proof["size"] != seen or consistent(seen, its_root, size, root, [unhex(h) for h in proof["path"]])


def unhex(text):
    need(len(text) == 64 and text == text.lower(), "it holds something that is no hash")
    return bytes.fromhex(text)
