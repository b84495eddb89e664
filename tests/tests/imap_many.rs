//! A mailbox of many messages that came just now, read as a whole through the whole system.

#![allow(clippy::unwrap_used)]

use tests::{
    client::python,
    site::{Options, Site, free_port_offset},
};

/// 10,000 messages of 4 kB before Postgres knows how many there are.
#[test]
fn ten_thousand_new_messages_are_read_at_once() {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some("imap-gateway: { call_seconds: 40 }\npop3-gateway: { call_seconds: 40 }\n".into());
    let site = Site::up(options);
    site.account("bob@example.com");
    let program = r#"
import poplib, re
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
def message(n):
    line = f"line {n * 7919}\r\n"
    return (f"From: a@b.example\r\nSubject: Number {n} of all\r\n\r\n" + line * (3900 // len(line))).encode()
def many(first, last):
    # One MULTIAPPEND (RFC 3502) of literals that nobody waits for.
    parts = b"".join(b" {%d+}\r\n" % len(message(n)) + message(n) for n in range(first, last))
    imap.sock.sendall(b"m APPEND INBOX" + parts + b"\r\n")
    line = imap.readline()
    assert line.startswith(b"m OK"), line
for first in range(0, 1000, 250): many(first, first + 250)
while (there := int(imap.select("INBOX")[1][0])) < 10000:
    assert imap.copy(f"1:{min(there, 10000 - there)}", "INBOX")[0] == "OK"
def fetch(items):
    typ, data = imap.fetch("1:*", items)
    assert typ == "OK", data
    return data
sizes = fetch("(RFC822.SIZE FLAGS)")
assert len(sizes) == 10000
bodies = [part for part in fetch("(BODY.PEEK[])") if isinstance(part, tuple)]
assert len(bodies) == 10000
for at, (head, octets) in enumerate(bodies):
    assert head.startswith(b"%d (" % (at + 1)), head
    assert octets == message(at % 1000), at
again = [part for part in fetch("(BODY.PEEK[HEADER] ENVELOPE)") if isinstance(part, tuple)]
assert len(again) == 10000 and b"Number 999 of all" in again[999][1]
assert imap.store("1:*", "+FLAGS", "\\Flagged")[0] == "OK"
assert all(b"\\Flagged" in line for line in fetch("(FLAGS)"))
found = imap.search(None, "FLAGGED", "SUBJECT", '"Number 77 of"')[1][0].split()
assert [int(n) for n in found] == list(range(78, 10001, 1000)), found
found = imap.search(None, "TEXT", f'"line {777 * 7919}"')[1][0].split()
assert [int(n) for n in found] == list(range(778, 10001, 1000)), found
assert imap.search(None, "OR", "TEXT", '"nowhere"', "SUBJECT", '"Number 5 of"')[1][0].split()[0] == b"6"
assert imap.search(None, "BODY", '"Number 77 of"')[1][0] == b""
# SELECT of a large mailbox is answered before its list is read; what comes behind it waits for the list.
assert imap.store("5", "+FLAGS", "Odd")[0] == "OK" and imap.create("Large")[0] == "OK"
for part in ("1:*", "1:*", "1:1000"): assert imap.copy(part, "Large")[0] == "OK"
imap.sock.sendall(b"s SELECT Large\r\nf FETCH 20001 (UID FLAGS)\r\n")
lines = [imap.readline()]
while not lines[-1].startswith(b"f "): lines.append(imap.readline())
selected = [line[:4] for line in lines].index(b"s OK")
assert b"* 21000 EXISTS\r\n" in lines[:selected] and b"* 21000 RECENT\r\n" in lines[:selected], lines
assert any(line.startswith(b"* FLAGS") and b"Odd" in line for line in lines), lines
last = lines[-2]
assert last.startswith(b"* 20001 FETCH (UID 20001 ") and b"\\Recent" in last and lines[-1].startswith(b"f OK"), lines
assert int(imap.select("Large")[1][0]) == 21000 and imap.response("RECENT")[1] == [b"0"]
assert imap.search(None, "KEYWORD", "Odd")[1][0] == b"5 10005 20005"
imap.logout()
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS); pop.user("bob@example.com"); pop.pass_("secret")
assert pop.stat()[0] == 10000
assert len(pop.uidl()[1]) == 10000
for n in range(1, 700):
    lines = pop.retr(n)[1]
    assert b"\r\n".join(lines) + b"\r\n" == message((n - 1) % 1000), n
pop.quit()
"#;
    python(&site, program);
}
