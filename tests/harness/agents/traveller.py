"""An agent that tries what it is asked to: a task's input is {name: [act, argument, ...]}, its output {name: {ok, value | error}}."""

import glob
import json
import os
import socket
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

ME = os.environ["MESH_AGENT"]
PROXY = ("127.0.0.1", 3128)


def send(kind, payload, **head):
    print(json.dumps({"type": kind, "payload": payload, **head}), flush=True)


def http(url, method="GET", headers=None, body=None):
    """Through whatever proxy the environment names, as any program would."""
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=body and body.encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return {"status": answer.status, "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode(), "code": error.headers.get("x-mesh-egress")}


def everything(connection):
    connection.settimeout(20)
    read = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        read += part
    return read


def raw(text, port=PROXY[1]):
    """Bytes for the proxy, one for each character."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(text.encode("latin-1"))
        return everything(connection).decode("latin-1")


def tunnel(target, payload=""):
    return raw("CONNECT %s HTTP/1.1\r\n\r\n%s" % (target, payload))


def socks(host, port, payload=""):
    with socket.create_connection(PROXY, timeout=20) as connection:
        name = host.encode()
        connection.sendall(b"\x05\x01\x00")
        assert connection.recv(2) == b"\x05\x00"
        connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
        reply = connection.recv(10)
        if reply[1] == 0 and payload:
            connection.sendall(payload.encode())
            return {"reply": 0, "body": everything(connection).decode()}
        return {"reply": reply[1]}


def direct(host, port):
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return everything(connection).decode()


def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"loot", (host, port))
        return "sent"


def lookup(name):
    return socket.getaddrinfo(name, 80)[0][4][0]


def relayed(target):
    """A relay within the sandbox passes a CONNECT on."""
    server = socket.create_server(("127.0.0.1", 0))

    def relay():
        here, _ = server.accept()
        with here, socket.create_connection(PROXY) as there:
            there.sendall(here.recv(65536))
            here.sendall(everything(there))

    threading.Thread(target=relay, daemon=True).start()
    return raw("CONNECT %s HTTP/1.1\r\n\r\n" % target, server.getsockname()[1])


def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 20).decode("utf-8", "replace")


def write(path):
    with open(path, "w") as file:
        return file.write("changed by an agent")


def mode(path):
    status = os.stat(path)
    return {"mode": oct(status.st_mode & 0o777), "own": status.st_uid == os.getuid(), "flags": os.statvfs(path).f_flag}


def hunt(word):
    """Looks for a word wherever an agent can look, and names where it stands."""
    word, found = word.encode(), []
    if any(word in (key + "=" + value).encode() for key, value in os.environ.items()):
        found.append("environment")
    places = glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline")
    for top in ("/run", "/tmp", "/etc", "/home", "/agent", "/dev/shm"):
        for at, _, names in os.walk(top):
            places += [os.path.join(at, name) for name in names]
    for path in places:
        try:
            with open(path, "rb") as file:
                if word in file.read(1 << 20):
                    found.append(path)
        except OSError:
            pass
    for maps in glob.glob("/proc/[0-9]*/maps"):
        pid = maps.split("/")[2]
        if pid == str(os.getpid()):
            continue  # Its own memory holds the word that it looks for.
        try:
            with open(maps) as lines, open("/proc/%s/mem" % pid, "rb") as memory:
                for line in lines:
                    start, end = (int(part, 16) for part in line.split()[0].split("-"))
                    memory.seek(start)
                    if word in memory.read(end - start):
                        found.append("memory of %s" % pid)
        except (OSError, ValueError, OverflowError):
            pass
    return found


def leak(word):
    """Writes its loot wherever it can write: its log, its result."""
    sys.stderr.write("loot: %s\n" % word)
    sys.stderr.flush()
    return word


ACTS = {
    "http": http, "raw": raw, "tunnel": tunnel, "socks": socks, "direct": direct, "udp": udp, "lookup": lookup, "relayed": relayed,
    "read": read, "write": write, "mode": mode, "hunt": hunt, "leak": leak, "env": lambda: dict(os.environ),
}


def attempt(act, *arguments):
    try:
        return {"ok": True, "value": ACTS[act](*arguments)}
    except Exception as error:
        return {"ok": False, "error": type(error).__name__ + ": " + str(error)}


send("HANDSHAKE", {"name": ME, "version": "1.0.0", "capabilities": [ME], "hooks": []})
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "TASK_REQUEST":
        given = message["payload"].get("input") or {}
        output = {name: attempt(*act) for name, act in given.items()}
        send("TASK_RESULT", {"ok": True, "output": output}, task_id=message["task_id"])
    elif message["type"] == "CONTROL" and message["payload"]["verb"] == "shutdown":
        break
