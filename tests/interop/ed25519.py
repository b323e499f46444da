"""ed25519 of RFC 8032 in plain Python: slow, and with the strict rules of verification that meshd follows."""
import base64
import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
I = pow(2, (P - 1) // 4, P)


def _add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _mul(s, p):
    q = (0, 1, 1, 0)
    while s > 0:
        if s & 1:
            q = _add(q, p)
        p, s = _add(p, p), s >> 1
    return q


def _same(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def _point(data):
    """The point that 32 bytes encode, or None. A y that is not reduced is refused."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * I % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


_GY = 4 * pow(5, P - 2, P) % P
G = _point(_GY.to_bytes(32, "little"))


def _bytes(p):
    z = pow(p[2], P - 2, P)
    x, y = p[0] * z % P, p[1] * z % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _small(p):
    return _same(_mul(8, p), (0, 1, 1, 0))


def _hash(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def usable(key):
    """Whether these 32 bytes are a key that only its holder can sign for."""
    point = _point(key) if len(key) == 32 else None
    return point is not None and not _small(point)


def verify(key, message, signature):
    """Whether the signature is this key's over this message: no small orders, S reduced, one encoding."""
    if len(signature) != 64 or not usable(key):
        return False
    r, s = _point(signature[:32]), int.from_bytes(signature[32:], "little")
    if r is None or _small(r) or s >= L:
        return False
    return _same(_mul(s, G), _add(r, _mul(_hash(signature[:32], key, message), _point(key))))


def holds(did, message, text):
    """Whether a signature, as the text `ed25519:…`, is this key's over the message."""
    kind, _, encoded = text.partition(":")
    signature = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    return kind == "ed25519" and verify(from_did(did), message, signature)


def _secret(seed):
    h = hashlib.sha512(seed).digest()
    return (int.from_bytes(h[:32], "little") & (2**254 - 8)) | 2**254, h[32:]


def public(seed):
    """The public key of a secret of 32 bytes."""
    return _bytes(_mul(_secret(seed)[0], G))


def sign(seed, message):
    """The signature of a secret of 32 bytes over a message."""
    a, prefix = _secret(seed)
    key, r = _bytes(_mul(a, G)), _hash(prefix, message)
    big_r = _bytes(_mul(r, G))
    return big_r + ((r + _hash(big_r, key, message) * a) % L).to_bytes(32, "little")


ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def to_did(key):
    """The did:key of 32 bytes."""
    number, text = int.from_bytes(b"\xed\x01" + key, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "did:key:z" + text


def from_did(did):
    """The 32 bytes of a did:key, or None when it is no usable ed25519 key."""
    if not did.startswith("did:key:z") or len(did) > 64 or any(c not in ALPHABET for c in did[9:]):
        return None
    number = 0
    for character in did[9:]:
        number = number * 58 + ALPHABET.index(character)
    if number >= 2**272:
        return None
    data = number.to_bytes(34, "big")
    return data[2:] if data[:2] == b"\xed\x01" and to_did(data[2:]) == did and usable(data[2:]) else None
