#!/usr/bin/env python3
"""Runs each image once under podman, as the chart does: `make images`.

A numeric user, a read-only root, no capabilities, no new privileges, no shell. Each must answer its
probes within seconds, find names without the C library's plug-ins, and end cleanly at SIGTERM.
"""
import argparse
import json
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of an address where nobody is: services start while what they need is away.
NOBODY = "127.0.0.1:1"
KUBECONFIG = {
    "apiVersion": "v1", "kind": "Config", "current-context": "x",
    "clusters": [{"name": "x", "cluster": {"server": f"http://{NOBODY}"}}],
    "users": [{"name": "x", "user": {}}],
    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
}
MAIL = {"smtp-ingress": ("MX_LISTEN", "220 "), "imap-gateway": ("IMAP_LISTEN", "* OK"), "pop3-gateway": ("POP3_LISTEN", "+OK")}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def podman(*arguments, ok=True):
    done = subprocess.run(["podman", "--runtime", "runc", *arguments], capture_output=True, text=True)
    if ok and done.returncode:
        sys.exit(f"podman {' '.join(arguments)}: {done.stderr}")
    return done


def restricted():
    """What a restricted pod has; limits as we have them, because they may not be raised everywhere."""
    files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]
    bounded = lambda n, most: str(most if n == resource.RLIM_INFINITY else min(n, most))
    files, processes = bounded(files, 20_000), bounded(processes, 1_024)
    return ["--pull", "never", "--network", "host", "--read-only", "--user", "65532:65532", "--cap-drop", "all",
            "--security-opt", "no-new-privileges", "--ulimit", f"nofile={files}:{files}",
            "--ulimit", f"nproc={processes}:{processes}"]


def settings(program, http, port):
    own = {
        "smtp-ingress": {"HOSTNAME": "mail.example.com"},
        "auth-checker": {"LISTEN": f"127.0.0.1:{port}"},
        "mda": {"LISTEN": f"127.0.0.1:{port}", "DATABASE_URL": f"postgres://u@{NOBODY}/d", "REDIS_URL": f"redis://{NOBODY}/"},
        "outbound-relay": {"REDIS_URL": f"redis://{NOBODY}/", "HOSTNAME": "mail.example.com"},
        "operator": {"HOSTNAME": "mail.example.com"},
        "console": {"LISTEN": f"127.0.0.1:{port}"},
    }.get(program, {})
    if program in MAIL:
        own |= {MAIL[program][0]: f"127.0.0.1:{port}"}
    if program != "mda":
        own |= {"MDA": "localhost:1"}
    own |= {"RUNTIME__HTTP_LISTEN": f"127.0.0.1:{http}", "RUNTIME__LOG": "info,runtime=debug"}
    return {f"POSTROAD_{key}": value for key, value in own.items()}


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def until(what, ask, wanted, seconds=15):
    start = time.time()
    while (answer := ask()) != wanted:
        if time.time() - start > seconds:
            raise AssertionError(f"{what} is {answer}, not {wanted}")
        time.sleep(0.1)


def greeting(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        return connection.recv(200).decode()


def try_service(program, image, kubeconfig):
    http, port = free_port(), free_port()
    variables = [word for key, value in settings(program, http, port).items() for word in ("--env", f"{key}={value}")]
    if program == "operator":
        variables += ["--env", "KUBECONFIG=/kubeconfig", "--volume", f"{kubeconfig}:/kubeconfig:ro"]
    name = podman("run", "--detach", *restricted(), *variables, image).stdout.strip()
    try:
        until("/livez", lambda: get(f"http://127.0.0.1:{http}/livez"), 200)
        # Without its database mda is alive and not ready; the others answer "try later" themselves.
        until("/readyz", lambda: get(f"http://127.0.0.1:{http}/readyz"), 503 if program == "mda" else 200)
        if program in MAIL:
            said = greeting(port)
            assert said.startswith(MAIL[program][1]), said
        time.sleep(1)
        start = time.time()
        podman("stop", "--time", "30", name)
        took = time.time() - start
        code = json.loads(podman("inspect", name).stdout)[0]["State"]["ExitCode"]
        logs = podman("logs", name)
        # mda gives up waiting for its database at once.
        assert code == 0 and took < 25, f"ended with {code} after {took:.0f} s"
        assert "name of a peer not found" not in logs.stdout + logs.stderr, "localhost was not found"
    except AssertionError as error:
        logs = podman("logs", name, ok=False)
        sys.exit(f"{image}: {error}\n{logs.stdout}{logs.stderr}")
    finally:
        podman("rm", "--force", name, ok=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tag")
    arguments.add_argument("--registry", default="localhost")
    arguments.add_argument("programs", nargs="*", default=[*MAIL, "auth-checker", "mda", "outbound-relay", "operator", "console", "postroad"])
    o = arguments.parse_args()
    pin = (ROOT / "Cargo.toml").read_text().split('version = "', 1)[1].split('"', 1)[0]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as kubeconfig:
        json.dump(KUBECONFIG, kubeconfig)
        kubeconfig.flush()
        pathlib.Path(kubeconfig.name).chmod(0o644)
        for program in o.programs:
            image = f"{o.registry}/postroad/{program}:{o.tag or pin}"
            if program == "postroad":
                words = podman("run", "--rm", *restricted(), image, "--version").stdout
                assert words.startswith("postroad "), words
            else:
                try_service(program, image, kubeconfig.name)
            print(f"{image}: answers its probes and ends at SIGTERM", flush=True)


main()
