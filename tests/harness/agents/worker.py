"""Everyday Python, case by case: prints for each what it came to, or why it failed."""
import asyncio, contextlib, json, os, signal, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, time, traceback
import concurrent.futures as futures
import multiprocessing as mp
from pathlib import Path

ASKED = {}
HOME = Path.home()


def packages():
    """A package with code and data, laid out as `pip install --target` does."""
    site = HOME / "site-packages" / "greet"
    site.mkdir(parents=True, exist_ok=True)
    (site / "__init__.py").write_text("from .words import hello\n")
    (site / "words.py").write_text("import importlib.resources as r\ndef hello(): return r.files(__package__).joinpath('word').read_text()\n")
    (site / "word").write_text("hello")
    sys.path.insert(0, str(site.parent))
    import greet
    return greet.hello()


def bundled():
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import beside
    return beside.VALUE


def venv():
    import venv as maker
    maker.EnvBuilder(symlinks=True, with_pip=False).create(HOME / "venv")
    return subprocess.check_output([HOME / "venv/bin/python", "-c", "import sys; print(sys.prefix != sys.base_prefix)"], text=True).strip()


def subprocesses():
    out = subprocess.run("printf '%s' a b c | tr -d b; exit 3", shell=True, capture_output=True, text=True)
    apart = subprocess.run(["cat"], input=b"x" * 1_000_000, stdout=subprocess.PIPE, start_new_session=True, check=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.2)
    return [out.stdout, out.returncode, len(apart.stdout)]


def threads():
    with futures.ThreadPoolExecutor(16) as pool:
        return sum(pool.map(lambda n: n * n, range(100)))


def square(n):
    return n * n


def processes():
    found = []
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        with context.Pool(2) as pool:
            found.append(sum(pool.map(square, range(10))))
    return found


def shared():
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    block.buf[:2] = b"ok"
    again = shared_memory.SharedMemory(name=block.name)
    read = bytes(again.buf[:2]).decode()
    again.close()
    block.close()
    block.unlink()
    with mp.get_context("fork").Manager() as manager:
        values = manager.dict(a=1)
        return [read, values["a"]]


async def loop():
    child = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    answers = []
    own = str(HOME / "own.sock")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(own)
    for server, dial in (
        (await asyncio.start_server(serve, "127.0.0.1", 0), None),
        (await asyncio.start_unix_server(serve, own), own),
    ):
        async with server:
            to = asyncio.open_unix_connection(dial) if dial else asyncio.open_connection(*server.sockets[0].getsockname())
            reader, writer = await to
            writer.write(b"ping\n")
            answers.append((await reader.readline()).decode().strip())
            writer.close()
    got = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, got.set)
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(got.wait(), 5)
    return [said.decode().strip(), *answers]


def asynchronous():
    return asyncio.run(loop())


def database():
    with contextlib.closing(sqlite3.connect(HOME / "own.db")) as base:
        base.execute("pragma journal_mode=wal")
        base.execute("create table if not exists t (a integer)")
        base.execute("insert into t values (1)")
        base.commit()
        return base.execute("select count(*) > 0 from t").fetchone()[0]


def temporary():
    with tempfile.TemporaryDirectory() as directory, tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(b"x" * 1_000_000)
        file.flush()
        with tempfile.SpooledTemporaryFile(max_size=10) as spooled:
            spooled.write(b"y" * 100)
        return os.path.getsize(file.name)


def signals():
    seen = []
    for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda n, _: seen.append(n))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    os.kill(os.getpid(), signal.SIGHUP)
    end = time.monotonic() + 5
    while len(set(seen)) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return len(set(seen))


def system():
    import ctypes, fcntl, getpass, locale, mmap, platform, select, shutil, uuid, zoneinfo
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))(lambda a, b: a[0] - b[0])
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare)
    with open(HOME / "lock", "w+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096) as memory:
            memory[:2] = b"ok"
    select.epoll().close()
    zoneinfo.ZoneInfo("UTC"), uuid.uuid4(), platform.platform(), locale.getpreferredencoding(), os.cpu_count()
    (HOME / "h\u00e9 \u20ac \U0001f600").write_text("\u20ac")
    return [list(numbers), getpass.getuser(), shutil.which("sh") is not None, socket.gethostbyname("localhost")]


def over_http():
    import urllib.request
    with urllib.request.urlopen(f"http://allowed.test:{ASKED['http']}/python", timeout=10) as answer:
        return [answer.status, "GET /python" in answer.read().decode()]


def over_tls():
    import http.client, urllib.request
    trust = ssl.create_default_context(cadata=ASKED["ca"])
    with urllib.request.urlopen(f"https://allowed.test:{ASKED['tls']}/python", timeout=10, context=trust) as answer:
        return [answer.status, answer.read().decode()]


def certificates():
    return len(ssl.create_default_context().get_ca_certs()) > 0 or not os.listdir("/etc/ssl/certs")


def served():
    import http.server, urllib.request
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=10) as answer:
        return answer.status


CASES = [packages, bundled, venv, subprocesses, threads, processes, shared, asynchronous, database, temporary, signals, system, served,
         over_http, over_tls, certificates]

if __name__ == "__main__":
    ASKED = json.load(sys.stdin)
    told = {}
    for case in CASES:
        try:
            told[case.__name__] = case()
        except BaseException:
            told[case.__name__] = "failed: " + traceback.format_exc()[-600:]
    print(json.dumps(told))
