#!/usr/bin/env bash
# Scans a site's mail ports and fails on anything weak: a protocol below TLS 1.2, a cipher without
# forward secrecy and authenticated encryption, compression, insecure renegotiation, Heartbleed.
#   tls_scan.sh HOST PORT-465 PORT-587 [PORT-25]
set -euo pipefail
host=${1:?host}
fine=0

scan() {
    local port=$1
    shift
    echo "== $host:$port $*"
    local out
    out=$(sslscan --no-colour --connect-timeout=10 "$@" "$host:$port")
    echo "$out"
    for old in SSLv2 SSLv3 TLSv1.0 TLSv1.1; do
        grep -Eq "^$old +disabled" <<<"$out" || { echo "WEAK: $old is not disabled" >&2; fine=1; }
    done
    for new in TLSv1.2 TLSv1.3; do
        grep -Eq "^$new +enabled" <<<"$out" || { echo "MISSING: $new is not enabled" >&2; fine=1; }
    done
    local ciphers weak
    ciphers=$(grep -E '^(Preferred|Accepted) ' <<<"$out") || { echo "no cipher was accepted" >&2; fine=1; return; }
    weak=$(grep -Ev 'TLS_(AES_(128|256)_GCM|CHACHA20_POLY1305)_SHA(256|384)|ECDHE-(RSA|ECDSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)' <<<"$ciphers" || true)
    [ -z "$weak" ] || { echo "WEAK ciphers: $weak" >&2; fine=1; }
    ! grep -Eq 'Compression enabled|Insecure session renegotiation|(^|[^t]) vulnerable to heartbleed' <<<"$(grep -v 'not vulnerable' <<<"$out")" ||
        { echo "WEAK: compression, renegotiation or Heartbleed" >&2; fine=1; }
}

scan "$2"
scan "$3" --starttls-smtp
[ $# -lt 4 ] || scan "$4" --starttls-smtp
exit $fine
