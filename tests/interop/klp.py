#!/usr/bin/env python3
"""KLP written a second time, from docs/KLP.md alone: standard library, and ed25519 and rsa beside this file."""
import base64
import datetime
import hashlib
import json
import re

import ed25519
import rsa

TYPES = set("TASK_REQUEST TASK_RESULT STATUS_UPDATE CAPABILITY_QUERY SECURITY_ALERT HANDSHAKE CAPABILITY_REPLY "
            "MESSAGE PUBLISH SUBSCRIBE ACK MEMORY CLAIM CONTROL ERROR".split())
FIELDS = ("v id type from to task_id in_reply_to intent payload context priority timestamp expires epoch attempt "
          "trace auth").split()
STANDARD = "from to intent payload context priority auth timestamp messageId".split()
PRIORITIES = ("low", "normal", "high", "critical")
PART = r"[A-Za-z0-9][A-Za-z0-9_.@+-]*"
SEGMENT = r"(?:[A-Za-z0-9_-]+|\*)"
ADDRESS = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9_.-]*:{PART}(?:#\d+)?|kai://agent\.{PART}|kai://node\.[A-Za-z0-9][A-Za-z0-9_.:-]*(?:/agent\.{PART})?"
    rf"|kai://(?!agent(?:\.|$)|node(?:\.|$))[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9][A-Za-z0-9_-]*)*"
    rf"|topic://(?:{SEGMENT}\.)*(?:{SEGMENT}|>)|policy://[A-Za-z0-9][A-Za-z0-9_./-]*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class Refused(Exception):
    def __init__(self, code, field=None, detail=""):
        super().__init__(f"{code} {field}: {detail}")
        self.code, self.field = code, field


class Reader:
    """Strict JSON: what two readers could understand differently is refused, with its path."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def bad(self, path):
        raise Refused("malformed", ".".join(path) or None)

    def space(self):
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1

    def take(self, token, path):
        self.space()
        if not self.text.startswith(token, self.at):
            self.bad(path)
        self.at += len(token)

    def peek(self):
        self.space()
        return self.text[self.at : self.at + 1]

    def string(self, path):
        end = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"').match(self.text, self.at)
        if not end:
            self.bad(path)
        self.at = end.end()
        try:
            value = json.loads(end.group())
            value.encode()
        except ValueError:
            self.bad(path)
        return value

    def value(self, path=(), depth=1):
        start = self.peek()
        if depth > 64 and start in ("{", "["):
            self.bad(path)
        if start == "{":
            return self.object(path, depth)
        if start == "[":
            self.at, items = self.at + 1, []
            while self.peek() != "]":
                if items:
                    self.take(",", path)
                items.append(self.value(path + (str(len(items)),), depth + 1))
            self.at += 1
            return items
        if start == '"':
            return self.string(path)
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        number = NUMBER.match(self.text, self.at)
        if not number:
            self.bad(path)
        self.at = number.end()
        whole = not number.group(1) and not number.group(2)
        value = int(number.group()) if whole else float(number.group())
        if abs(value) > 2**53:
            self.bad(path)
        return value

    def object(self, path, depth):
        self.at, members = self.at + 1, {}
        while self.peek() != "}":
            if members:
                self.take(",", path)
                self.space()
            key = self.string(path)
            if key in members:
                self.bad(path + (key,))
            self.take(":", path)
            members[key] = self.value(path + (key,), depth + 1)
        self.at += 1
        return members


def read(line):
    """One JSON object, and nothing after it."""
    data = line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass")
    if len(data) > 1048576:
        raise Refused("too_large")
    try:
        reader = Reader(data.decode())
    except UnicodeDecodeError:
        raise Refused("malformed") from None
    if reader.peek() != "{":
        reader.bad(())
    value = reader.value()
    if reader.peek():
        reader.bad(())
    return value


def number(value):
    """A number as ECMAScript writes it."""
    if isinstance(value, int) or value == int(value) and abs(value) < 1e21:
        return str(int(value))
    digits, _, exponent = f"{value!r}".replace("E", "e").partition("e")
    sign, digits = ("-", digits[1:]) if digits[0] == "-" else ("", digits)
    whole, _, fraction = digits.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point].ljust(point, '0')}{'.' + digits[point:] if digits[point:] else ''}"
    tail = "." + digits[1:] if digits[1:] else ""
    return f"{sign}{digits[0]}{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def canonical(value):
    """RFC 8785."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return json.dumps(value, ensure_ascii=False)


def is_address(text):
    return isinstance(text, str) and len(text.encode()) <= 512 and bool(ADDRESS.fullmatch(text))


def matches(pattern, topic):
    """Whether a subscription's pattern matches a topic that one publishes to."""
    ours, theirs = pattern.split("."), topic.split(".")
    if "*" in theirs or ">" in theirs:
        return False
    if ours[-1] == ">":
        return len(theirs) >= len(ours) and all(a in ("*", b) for a, b in zip(ours[:-1], theirs))
    return len(ours) == len(theirs) and all(a in ("*", b) for a, b in zip(ours, theirs))


def is_moment(value):
    if not isinstance(value, str) or not MOMENT.fullmatch(value):
        return False
    try:
        datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", value.upper()).replace("Z", "+00:00"))
    except ValueError:
        return False
    return True


def is_text(most):
    def check(value):
        plain = isinstance(value, str) and 0 < len(value.encode()) <= most
        return plain and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value)
    return check


def is_count(most):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


RULES = {
    "id": is_text(128), "in_reply_to": is_text(128), "intent": is_text(128), "trace": is_text(4096),
    "from": is_address, "to": is_address, "timestamp": is_moment, "expires": is_moment,
    "task_id": lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value),
    "priority": lambda value: value in PRIORITIES, "epoch": is_count(2**53), "attempt": is_count(2**32 - 1),
    "auth": lambda value: isinstance(value, dict),
}


def require(members, names):
    for name in names:
        if members.get(name) is None:
            raise Refused("missing_field", name, f"Missing required field: {name}")


def decode(line, defaults=None):
    """The envelope that a line means, its defaults filled in; and the object as it was sent."""
    sent = read(line)
    members = {key: value for key, value in sent.items() if value is not None}
    only = set(sent) & (set(FIELDS) - set(STANDARD))
    plain = "type" not in sent and (not only or "messageId" in sent)
    standard = plain and bool({"intent", "messageId"} & set(sent) or not (defaults or {}).get("from"))
    filled = {k: v for k, v in (defaults or {}).items() if not (standard and k == "timestamp")}
    for key in members:
        if key not in (STANDARD if standard else FIELDS):
            raise Refused("unknown_field", key)
    if members.get("v", 1) != 1 or type(members.get("v", 1)) is not int:
        raise Refused("unsupported_version", "v")
    if standard:
        require({**filled, **members}, ("from", "to", "intent", "payload"))
        stamp = members.get("timestamp", 0)
        if not isinstance(stamp, int) or isinstance(stamp, bool):
            raise Refused("invalid_field", "timestamp")
        moment = datetime.datetime.fromtimestamp(stamp / 1000, datetime.timezone.utc)
        renamed = {"messageId": "id"}
        envelope = {renamed.get(key, key): value for key, value in members.items()}
        envelope.update(type="MESSAGE", timestamp=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        if "auth" in members:
            if not is_text(4096)(members["auth"]):
                raise Refused("invalid_field", "auth")
            envelope["auth"] = {"token": members["auth"]}
    else:
        envelope = {**filled, **members}
        require(envelope, ("type", "from", "to", "payload", "timestamp"))
    if envelope["type"] not in TYPES:
        raise Refused("unknown_type", "type")
    for key, rule in RULES.items():
        if key in envelope and not rule(envelope[key]):
            raise Refused("invalid_field", key)
    for key, value in envelope.get("auth", {}).items():
        if key not in ("signature", "key", "token"):
            raise Refused("unknown_field", f"auth.{key}")
        if value is not None and not is_text(4096)(value):
            raise Refused("invalid_field", f"auth.{key}")
    named = "klp-" + hashlib.sha256(canonical(sent).encode()).hexdigest()[:32]
    return {"v": 1, "priority": "normal", "id": filled.get("id", named), **envelope}, sent


def signing_input(sent):
    auth = {key: value for key, value in (sent.get("auth") or {}).items() if key != "signature"}
    return b"KLP/1\n" + canonical({**sent, "auth": auth} if "auth" in sent else sent).encode()


def sign(sent, secret):
    """The envelope with its key and signature."""
    auth = {**(sent.get("auth") or {}), "key": ed25519.to_did(ed25519.public(secret))}
    auth.pop("signature", None)
    signed = {**sent, "auth": auth}
    signature = ed25519.sign(secret, signing_input(signed))
    auth["signature"] = "ed25519:" + base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return signed


def verdict(sent, did):
    """What a receiver that knows the sender by this key says of an envelope as it was sent."""
    auth = sent.get("auth") or {}
    text = auth.get("signature")
    if text is None:
        return "unsigned"
    kind, _, encoded = text.partition(":")
    plain = re.fullmatch("[A-Za-z0-9_-]*", encoded) and len(encoded) % 4 != 1
    signature = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)) if plain else b""
    again = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    if again != encoded or len(signature) not in {"ed25519": (64,), "rsa": range(256, 513)}.get(kind, ()):
        return "malformed_signature"
    if auth.get("key", did) != did:
        return "wrong_key"
    modulus, signed = rsa.from_did(did), signing_input(sent)
    if modulus:
        holds = kind == "rsa" and rsa.verify(modulus, signed, signature)
    else:
        holds = kind == "ed25519" and ed25519.verify(ed25519.from_did(did), signed, signature)
    return "ok" if holds else "bad_signature"
