#!/usr/bin/env python3
"""Builds an image of each program with buildah: `make images`.

  images.py [--tag TAG] [--registry R] [--push] [--save DIR] [PROGRAM ...]

The images are R/postroad/PROGRAM:TAG in buildah's storage (R is localhost by default, TAG the
workspace's version), and with --save also archives DIR/PROGRAM.tar for nodes without a registry:
`ctr -n k8s.io images import DIR/PROGRAM.tar`, `kind load image-archive …`.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ["smtp-ingress", "auth-checker", "mda", "outbound-relay", "imap-gateway", "pop3-gateway", "operator", "console", "postroad"]
CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
# One image is one binary; a larger one has something in it that does not belong there.
MOST = 40_000_000


def run(*command, **more):
    print("+", *command, flush=True)
    return subprocess.run([str(c) for c in command], check=True, cwd=ROOT, **more)


def output(*command):
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


def packages(metadata, program):
    """The crates that are in a program: not those that built it or tested it."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    by_id = {package["id"]: package for package in metadata["packages"]}
    waiting = [package["id"] for package in metadata["packages"] if package["name"] == program]
    found = set()
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += [d["pkg"] for d in nodes[one]["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
    return sorted((by_id[one] for one in found), key=lambda p: (p["name"], p["version"]))


def sbom(metadata, program, version):
    """CycloneDX 1.5."""
    components = [
        {
            "type": "library",
            "name": package["name"],
            "version": package["version"],
            "purl": f"pkg:cargo/{package['name']}@{package['version']}",
            "licenses": [{"expression": package["license"].replace("/", " OR ")}] if package["license"] else [],
        }
        for package in packages(metadata, program)
        if package["name"] != program
    ]
    about = {"component": {"type": "application", "name": program, "version": version}}
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": about, "components": components}


def layout(folder, binary, program, bom):
    """The root of the image. Times are fixed, so that the same binary is the same image."""
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "rootfs"
    files = {
        f"usr/share/sbom/{program}.cdx.json": json.dumps(bom, indent=1) + "\n",
        # Without it glibc asks name servers before /etc/hosts.
        "etc/nsswitch.conf": "hosts: files dns\n",
        "etc/passwd": "nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
        "etc/group": "nonroot:x:65532:\n",
        "etc/ssl/certs/ca-certificates.crt": CERTIFICATES.read_text(),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy2(binary, root / "usr/bin" / program)
    (root / "usr/bin" / program).chmod(0o755)
    (root / "service").symlink_to(f"usr/bin/{program}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tag")
    arguments.add_argument("--registry", default="localhost")
    arguments.add_argument("--push", action="store_true")
    arguments.add_argument("--save", type=pathlib.Path)
    arguments.add_argument("--base", default="scratch")
    arguments.add_argument("--no-build", action="store_true", help="take the binaries that are there")
    arguments.add_argument("programs", nargs="*", default=PROGRAMS)
    o = arguments.parse_args()
    if not CERTIFICATES.is_file():
        sys.exit(f"{CERTIFICATES} is missing: apt-get install ca-certificates")

    host = next(line.split()[1] for line in output("rustc", "-vV").splitlines() if line.startswith("host:"))
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    metadata = json.loads(output("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host))
    version = next(p["version"] for p in metadata["packages"] if p["name"] == "postroad")
    tag = o.tag or version
    if not o.no_build:
        # Static, with the C library of this machine: nothing else is needed in the image.
        flags = f"{os.environ.get('RUSTFLAGS', '')} -C target-feature=+crt-static".strip()
        chosen = [word for program in o.programs for word in ("-p", program)]
        run("cargo", "build", "--release", "--locked", "--bins", "--target", host, *chosen, env=os.environ | {"RUSTFLAGS": flags})
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    if o.save:
        o.save.mkdir(parents=True, exist_ok=True)
    for program in o.programs:
        binary = target / host / "release" / program
        kind = output("file", "-b", str(binary))
        if "static" not in kind:
            sys.exit(f"{binary} is not static: {kind}")
        folder = target / "images" / program
        layout(folder, binary, program, sbom(metadata, program, version))
        name = f"{o.registry}/postroad/{program}:{tag}"
        labels = {
            "title": program,
            "description": f"Postroad's {program}",
            "version": version,
            "revision": revision,
            "licenses": "Apache-2.0",
        }
        given = [word for key, value in labels.items() for word in ("--label", f"org.opencontainers.image.{key}={value}")]
        run("buildah", "build", "--isolation", "chroot", "--format", "oci", "--timestamp", "0", "--quiet",
            "--build-arg", f"BASE={o.base}", *given, "--tag", name, "-f", ROOT / "deploy/Containerfile", folder)
        size = binary.stat().st_size + CERTIFICATES.stat().st_size
        if size > MOST:
            sys.exit(f"{name} has {size} bytes, more than {MOST}")
        if o.save:
            archive = o.save / f"{program}.tar"
            archive.unlink(missing_ok=True)
            run("buildah", "push", "--quiet", name, f"docker-archive:{archive}:{name}")
        if o.push:
            run("buildah", "push", name)
        print(f"{name}: {size / 1e6:.1f} MB")


main()
