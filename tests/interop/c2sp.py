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


def note(text, did, first):
    """The lines of a C2SP note after its first, which must be `first`; signed by the key `did`."""
    body, blank, signatures = text.rpartition("\n\n")
    key, held, lines = ed25519.from_did(did), False, body.split("\n")
    need(blank and key and signatures.endswith("\n"), "it is not a signed note")
    for line in signatures.split("\n")[:-1]:
        dash, signer, encoded = line.split(" ")
        signature = base64.b64decode(encoded, validate=True)
        need(dash == "\u2014" and base64.b64encode(signature).decode() == encoded, "a malformed signature")
        if signer == did and signature[:4] == sha(did.encode() + b"\n\x01" + key)[:4]:
            held = ed25519.verify(key, (body + "\n").encode(), signature[4:])
            need(held, f"the signature of {did} does not hold")
    need(held and lines[0] == first, f"it is not what {did} signed")
    return lines[1:]


def checkpoint(text, did):
    size, root = note(text, did, did)[:2]
    need(re.fullmatch("0|[1-9][0-9]*", size) and int(size) < 2**64, "its size is malformed")
    decoded = base64.b64decode(root, validate=True)
    need(len(decoded) == 32 and base64.b64encode(decoded).decode() == root, "its root is malformed")
    return int(size), decoded


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
