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

case "${1:?demo, test, check or bench}" in
    demo) common ;;
    test)
        common
        want curl curl
        want swaks swaks
        want mbsync isync
        want mutt mutt
        ;;
    check)
        command -v cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked --debug
        ;;
    bench)
        common
        want postfix postfix
        want dovecot dovecot-imapd
        [ -x /usr/lib/dovecot/lmtp ] || need+=(dovecot-lmtpd)
        ;;
    *)
        echo "unknown target $1" >&2
        exit 2
        ;;
esac

[ ${#need[@]} -gt 0 ] || exit 0
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
