"""RSA keys of foreign owners: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2.2), verified with Python's own integers."""
import hashlib

import ed25519

# What stands before a SHA-256 digest, and after a modulus: 65537, the only exponent.
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
EXPONENT = bytes.fromhex("0203010001")


def to_der(modulus):
    """The RSAPublicKey of a modulus of 256 to 512 bytes, of which there is one."""
    def tagged(tag, body):
        return bytes((tag, 0x82)) + len(body).to_bytes(2, "big") + body
    return tagged(0x30, tagged(0x02, b"\0" + modulus) + EXPONENT)


def from_did(did):
    """The modulus of a did:key, or None when it is no RSA key of 2048 to 4096 bits in its one spelling."""
    if not did.startswith("did:key:z") or len(did) > 736 or any(c not in ed25519.ALPHABET for c in did[9:]):
        return None
    number = 0
    for character in did[9:]:
        number = number * 58 + ed25519.ALPHABET.index(character)
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    modulus = data[11:-5]
    fits = did[9] != "1" and 256 <= len(modulus) <= 512 and data == b"\x85\x24" + to_der(modulus)
    return modulus if fits and modulus[0] & 0x80 and modulus[-1] & 1 else None


def verify(modulus, message, signature):
    """Whether the signature is this key's over this message."""
    n, s = int.from_bytes(modulus, "big"), int.from_bytes(signature, "big")
    if len(signature) != len(modulus) or s >= n:
        return False
    end = b"\0" + DIGEST_INFO + hashlib.sha256(message).digest()
    wanted = b"\0\1" + b"\xff" * (len(modulus) - 2 - len(end)) + end
    return pow(s, 65537, n).to_bytes(len(modulus), "big") == wanted
