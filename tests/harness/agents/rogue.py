"""Agents with bad manners, and a few with good ones: `rogue.py <way> [mark]`.

Written against docs/KLP.md with nothing but the standard library, as anybody's agent might be. The capability that it
names is its own id, as the bundles of the tests declare it.
"""

import json
import os
import signal
import socket
import sys
import time

ME = os.environ["MESH_AGENT"]


def raw(text):
    data = text if isinstance(text, bytes) else text.encode()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def send(kind, payload, **head):
    raw(json.dumps({"type": kind, "payload": payload, **head}))


def hello(capabilities=None, hooks=(), name=ME, version="1.0.0"):
    named = [ME] if capabilities is None else capabilities
    send("HANDSHAKE", {"name": name, "version": version, "capabilities": named, "hooks": list(hooks)})


def messages():
    for line in sys.stdin:
        yield json.loads(line)


def tasks(other=lambda message: None):
    """Tasks; everything else goes to `other`."""
    for message in messages():
        if message["type"] == "TASK_REQUEST":
            yield message["task_id"], message["payload"].get("input"), message
        elif message["type"] == "CONTROL" and message["payload"]["verb"] == "shutdown":
            return
        else:
            other(message)


def done(task, output, **head):
    send("TASK_RESULT", {"ok": True, "output": output}, task_id=task, **head)


def echo(**profile):
    hello(**profile)
    for task, given, _ in tasks():
        done(task, given)


def slow():
    hello()
    for task, given, _ in tasks():
        time.sleep(given["ms"] / 1000)
        done(task, given)


# ---- lines that are none ----

GARBAGE = [
    b"this is not JSON",
    b"\xff\xfe not even UTF-8",
    b"[1, 2, 3]",
    b'{"type":"NONSENSE","payload":{}}',
    b'{"type":"STATUS_UPDATE","payload":{},"payload":{}}',
    b'{"type":"STATUS_UPDATE","payload":{"progress":1e400}}',
    b'{"type":"STATUS_UPDATE","payload":{},"surprise":1}',
    b'{"type":"STATUS_UPDATE"}',
    b'{"type":"STATUS_UPDATE","payload":{"progress":7}}',
    b'{"type":"STATUS_UPDATE","payload":' + b'{"a":' * 100 + b"1" + b"}" * 101,
    b'{"type":"MEMORY","payload":{"op":"explode","key":"x"}}',
    b'{"type":"STATUS_UPDATE","payload":{}} trailing',
]


def garbage():
    """Writes rubbish, then serves: each task is answered with the codes of the ERRORs that came until then."""
    hello()
    for line in GARBAGE:
        raw(line)
    codes = []
    note = lambda message: codes.append(message["payload"]["code"]) if message["type"] == "ERROR" else None
    for task, _, _ in tasks(note):
        done(task, codes)


def big_line():
    hello()
    codes = []
    note = lambda message: codes.append(message["payload"]["code"]) if message["type"] == "ERROR" else None
    for task, given, _ in tasks(note):
        if given == "write":
            raw(b'{"type":"STATUS_UPDATE","payload":{"note":"' + b"x" * (2 << 20) + b'"}}')
        done(task, codes)


def flood():
    hello()
    while True:
        raw("x" * 200)


def flood_log():
    hello()
    for task, given, _ in tasks():
        for _ in range(3000):
            sys.stderr.write("y" * 200 + "\n")
        done(task, given)


# ---- silence ----


def deaf():
    hello()
    signal.pause()


def mute():
    hello()
    for _ in messages():
        pass


def silent():
    """Declares a heartbeat in its manifest and says nothing."""
    mute()


def no_health():
    """Names the health hook and never answers it."""
    hello(hooks=["health"])
    for _ in messages():
        pass


def late():
    time.sleep(3600)


def stubborn():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hello()
    for message in messages():
        if message["type"] == "TASK_REQUEST" and message["payload"].get("input") == "echo":
            done(message["task_id"], "echo")


# ---- ends ----


def exits():
    sys.stderr.write("no configuration, giving up\n")
    sys.exit(3)


def killed():
    hello()
    for task, given, _ in tasks():
        if given == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        done(task, given)


def last_words():
    """Ends right behind its result."""
    hello()
    for task, given, _ in tasks():
        done(task, given)
        os._exit(0)


def closes_output():
    hello()
    for _ in messages():
        os.close(1)
        signal.pause()


def daemonize():
    """Forks twice and leaves something that hears no signal and holds the pipes open."""
    hello()
    for task, given, _ in tasks():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                while True:
                    time.sleep(3600)
            os._exit(0)
        os.wait()
        done(task, given)


def hog():
    hello()
    for _ in tasks():
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)))


# ---- handshakes ----


def bad_handshake():
    send("HANDSHAKE", {"name": 5})
    signal.pause()


def wide_handshake():
    hello(capabilities=[ME, "everything"])
    signal.pause()


def empty_handshake():
    echo(capabilities=[])


def other_name():
    echo(name="somebody-else")


def other_version():
    echo(version="9.9.9")


def early():
    """Speaks before it has shaken hands."""
    send("STATUS_UPDATE", {"progress": 0.5})
    echo()


# ---- results ----


def bad_result():
    hello()
    for task, _, _ in tasks():
        send("TASK_RESULT", {"ok": "perhaps"}, task_id=task)


def own_failure():
    """Fails its task in the way that its input names."""
    hello()
    for task, given, _ in tasks():
        send("TASK_RESULT", {"ok": False, "error": given}, task_id=task)


def stale():
    """Answers with results of other tasks, attempts and epochs first, and with the right one twice."""
    hello()
    codes = []
    note = lambda message: codes.append(message["payload"]["code"]) if message["type"] == "ERROR" else None
    for task, given, message in tasks(note):
        if given == "report":
            done(task, codes)
            continue
        done("somebody-elses-task", "wrong")
        done(task, "wrong", attempt=message["attempt"] + 1)
        done(task, "wrong", epoch=message["epoch"] - 1)
        done(task, "right", attempt=message["attempt"], epoch=message["epoch"])
        done(task, "wrong", attempt=message["attempt"], epoch=message["epoch"])


ODD = {
    "nameless": '{"type":"TASK_RESULT","payload":{"ok":true,"output":1}}',
    "nan": '{"type":"TASK_RESULT","task_id":"%s","payload":{"ok":true,"output":NaN}}',
    "twice": '{"type":"TASK_RESULT","task_id":"%s","payload":{"ok":true,"output":1,"output":2}}',
    "huge": '{"type":"TASK_RESULT","task_id":"%s","payload":{"ok":true,"output":"' + "x" * (1 << 20) + '"}}',
    "huge_first": '{"payload":{"ok":true,"output":"' + "x" * (1 << 20) + '"},"task_id":"%s","type":"TASK_RESULT"}',
}


def odd_result():
    """Answers in the odd way that its input names; any other input is told the codes of the ERRORs until then."""
    hello()
    codes = []
    note = lambda message: codes.append(message["payload"]["code"]) if message["type"] == "ERROR" else None
    for task, given, _ in tasks(note):
        odd = ODD.get(given)
        if odd is None:
            done(task, codes)
        else:
            raw(odd.replace("%s", task))


def two_at_once():
    """With two tasks in hand, writes a result that says not whose it is, then the right ones."""
    hello()
    held = []
    for task, given, _ in tasks():
        held.append(task)
        if len(held) == 2:
            raw(ODD["nameless"])
            raw(ODD["nan"].replace("%s", "neither"))
            for one in held:
                done(one, given)


def error_hook():
    """Fails or is refused as its input says; `report` is answered with what its `error` hook was told."""
    hello(hooks=["error"])
    seen = []

    def note(message):
        if message["type"] == "CONTROL":
            seen.append([message["payload"]["verb"], message.get("task_id"), message["payload"]["args"]])
            send("STATUS_UPDATE", {}, in_reply_to=message["id"], **({"task_id": seen[-1][1]} if seen[-1][1] else {}))

    for task, given, _ in tasks(note):
        if given == "fail":
            error = {"class": "refusal", "message": "cannot", "retryable": False}
            send("TASK_RESULT", {"ok": False, "error": error}, task_id=task)
        elif given == "break":
            raw(ODD["twice"].replace("%s", task))
        elif given == "garbage":
            raw("garbage")
            done(task, None)
        else:
            done(task, seen)


def forge():
    """Speaks in somebody else's name, then hands in its result."""
    hello()
    for task, given, _ in tasks():
        payload = {"topic": "news.forged", "data": 1}
        data = [
            {"type": "PUBLISH", "from": "kai://agent.healthy", "payload": payload},
            {"type": "TASK_RESULT", "task_id": task, "payload": {"ok": True, "output": given}},
        ]
        raw("\n".join(json.dumps(line) for line in data))


# ---- the mesh ----


def rude():
    """Publishes to what is no topic, so often as its input says."""
    hello()
    for task, given, _ in tasks():
        if given == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(given):
            send("PUBLISH", {"topic": "*", "data": 1})
        done(task, given)


def delegate():
    hello()
    waiting = {}

    def answer(message):
        if message["type"] == "TASK_RESULT" and message["in_reply_to"] in waiting:
            done(waiting.pop(message["in_reply_to"]), {"child": message["payload"]})

    for task, given, _ in tasks(answer):
        waiting["r-" + task] = task
        payload = {"requirements": [given["to"]], "input": given["input"]}
        send("TASK_REQUEST", payload, id="r-" + task, task_id=task)


def remember():
    hello()
    waiting = {}

    def answer(message):
        if message["type"] == "MEMORY" and message["in_reply_to"] in waiting:
            done(waiting.pop(message["in_reply_to"]), message["payload"])

    for task, given, _ in tasks(answer):
        waiting["m-" + task] = task
        send("MEMORY", given, id="m-" + task)


def hooks():
    """Answers each hook, and tasks with all the verbs it has seen."""
    seen = []
    hello(hooks=["init", "start", "health", "pause", "resume"])
    for message in messages():
        if message["type"] == "CONTROL":
            seen.append(message["payload"]["verb"])
            sys.stderr.write("hook " + seen[-1] + "\n")
            sys.stderr.flush()
            send("STATUS_UPDATE", {"health": {"status": "healthy"}}, in_reply_to=message["id"])
            if seen[-1] == "shutdown":
                return
        elif message["type"] == "TASK_REQUEST":
            done(message["task_id"], seen)


# ---- the sandbox ----


def attempt(act):
    try:
        return {"ok": True, "value": act()}
    except Exception as error:
        return {"ok": False, "error": type(error).__name__ + ": " + str(error)}


def read(path):
    with open(path, "rb") as file:
        return file.read(4096).decode("utf-8", "replace")


def write(path):
    with open(path, "w") as file:
        return file.write("written by an agent")


def connect(address):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=3):
        return "connected"


def spawn(count):
    """Starts so many sleepers and says how many came to be."""
    for number in range(count):
        if os.fork() == 0:
            time.sleep(3600)
    return count


ACTS = {
    "read": read,
    "write": write,
    "connect": connect,
    "spawn": spawn,
    "list": lambda path: sorted(os.listdir(path)),
    "uid": lambda _: os.getuid(),
    "gids": lambda _: [os.getgid(), *os.getgroups()],
    "env": lambda _: dict(os.environ),
    "pids": lambda _: [int(name) for name in os.listdir("/proc") if name.isdigit()],
    "become_root": lambda _: os.setuid(0),
    "mount": lambda _: os.mkdir("/mnt/mesh"),
    "signal": lambda pid: os.kill(pid, 0),
    "home": lambda _: os.environ.get("HOME"),
}


def view():
    """Tries what its input names and says what came of it."""
    hello()
    for task, given, _ in tasks():
        done(task, {name: attempt(lambda: ACTS[act](argument)) for name, (act, argument) in given.items()})


globals()[sys.argv[1]]()
