"""The two MUAs of `make demo`: alice@sender.com submits, bob@example.com reads.

Prints every step and ends with code 0 only if each one held.
"""

import imaplib
import json
import os
import poplib
import smtplib
import socket
import ssl
import subprocess
import sys
import time

OFFSET = int(os.environ["OFFSET"])
SENDER, EXAMPLE = "127.0.0.2", "127.0.0.3"
BODY = "Hello Bob,\r\n\r\na line of a single dot follows:\r\n.\r\nGrüße, Alice\r\n"


def step(title):
    print(f"\n\033[1m== {title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)


def check(holds, what):
    if not holds:
        sys.exit(f"FAILED: {what}")
    print(f"   ok: {what}")


def tls(data):
    return ssl.create_default_context(cafile=f"{data}/tls/ca.pem")


def postroad(data, *arguments):
    command = [os.environ["POSTROAD"], arguments[0], "--data", data, *arguments[1:]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Dialogue(smtplib.SMTP):
    """An SMTP client that shows what is said, without credentials and bodies."""

    def putcmd(self, cmd, args=""):
        said = f"{cmd} {args}".strip()
        print(f"   C: {' '.join(said.split()[:2]) + ' ***' if cmd.upper() == 'AUTH' else said}")
        super().putcmd(cmd, args)

    def getreply(self):
        code, text = super().getreply()
        lines = text.decode().split("\n")
        for line in lines[:-1]:
            print(f"   S: {code}-{line}")
        print(f"   S: {code} {lines[-1]}")
        return code, text


def submit():
    step("1. alice@sender.com submits over port 587 with TLS")
    context = tls(os.environ["SENDER_DATA"])
    context.check_hostname = False  # the demo reaches the site by address
    with Dialogue(SENDER, 587 + OFFSET) as smtp:
        smtp.ehlo("laptop.sender.com")
        smtp.starttls(context=context)
        smtp.ehlo("laptop.sender.com")
        smtp.login("alice@sender.com", "secret")
        message = (
            "From: Alice <alice@sender.com>\r\nTo: Bob <bob@example.com>\r\nSubject: The whole way\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        ) + BODY
        smtp.mail("alice@sender.com", ["BODY=8BITMIME"])
        smtp.rcpt("bob@example.com")
        code, reply = smtp.data(message.encode())
    check(code == 250 and reply.startswith(b"2.0.0 Ok: queued as "), "250 2.0.0 Ok: queued as <queue-id>")
    return reply.split()[-1].decode()


def watch_idle():
    """A second session of Bob's, in IDLE (RFC 2177); imaplib has no word for it."""
    context = tls(os.environ["EXAMPLE_DATA"])
    context.check_hostname = False
    raw = context.wrap_socket(socket.create_connection((EXAMPLE, 993 + OFFSET), timeout=20))
    lines = raw.makefile("rb")
    lines.readline()

    def command(text, until):
        raw.sendall(text.encode() + b"\r\n")
        while True:
            line = lines.readline()
            if not line:
                sys.exit("FAILED: the idle session was closed")
            if line.startswith(until):
                return line

    command("a LOGIN bob@example.com secret", b"a OK")
    command("b SELECT INBOX", b"b OK")
    command("c IDLE", b"+")
    return lines


def wait_for(lines, word):
    while True:
        line = lines.readline()
        if not line:
            sys.exit(f"FAILED: the idle session ended before {word}")
        if word in line:
            print(f"   S: {line.decode().rstrip()}")
            return line


def read_imap(idle):
    step("2. bob@example.com's idle IMAP session hears of it")
    wait_for(idle, b"EXISTS")
    step("3. another IMAP session fetches the header, then the body, then sets a flag")
    context = tls(os.environ["EXAMPLE_DATA"])
    context.check_hostname = False
    imap = imaplib.IMAP4_SSL(EXAMPLE, 993 + OFFSET, ssl_context=context)
    imap.login("bob@example.com", "secret")
    imap.select("INBOX")
    kind, data = imap.fetch("1", "(FLAGS BODY.PEEK[HEADER])")
    header = data[0][1].decode()
    print("\n".join("   | " + line for line in header.splitlines()))
    results = " ".join(header.split("Authentication-Results:", 1)[1].split("\r\nReceived:", 1)[0].split())
    for method in ("spf", "dkim", "dmarc"):
        check(f"{method}=pass" in results, f"example.com recorded {method}=pass")
    kind, data = imap.fetch("1", "(BODY.PEEK[TEXT])")
    check(data[0][1] == BODY.encode(), "the body is what was sent, byte for byte")
    imap.store("1", "+FLAGS", "(\\Seen \\Flagged)")
    line = wait_for(idle, b"FETCH")
    check(b"\\Flagged" in line, "the other session saw the flag while in IDLE")
    kind, data = imap.fetch("1", "(BODY.PEEK[])")
    imap.logout()
    return data[0][1]


def read_pop3(expected):
    step("4. the same message by POP3")
    context = tls(os.environ["EXAMPLE_DATA"])
    context.check_hostname = False
    pop = poplib.POP3_SSL(EXAMPLE, 995 + OFFSET, context=context)
    pop.user("bob@example.com")
    pop.pass_("secret")
    print(f"   S: {pop.stat()[0]} message, UIDL {pop.uidl()[1][0].decode()}")
    lines = pop.retr(1)[1]
    check(b"\r\n".join(lines) + b"\r\n" == expected, "POP3 gives the same bytes as IMAP")
    pop.quit()


def show_journeys(queue_id):
    step(f"5. the journey at sender.com ({queue_id})")
    here = postroad(os.environ["SENDER_DATA"], "trace", queue_id)
    print(here)
    check("relayed" in here, "the relay hop is told")
    check("C: MAIL FROM:<alice@sender.com>" in here, "with its SMTP dialogue")
    relayed = here.split("relayed", 1)[1]
    there = relayed.split("queued as ", 1)[1].split()[0].strip(".)\"',")
    step(f"6. the journey at example.com ({there})")
    journey = postroad(os.environ["EXAMPLE_DATA"], "trace", there)
    print(journey)
    check("delivered" in journey, "delivered into the mailbox")
    head = json.loads(postroad(os.environ["EXAMPLE_DATA"], "trace", "--json", there).splitlines()[0])
    check(len(head["trace_id"]) == 32, f"with its trace id {head['trace_id']}")


def spoof():
    step("7. a stranger at 127.0.0.66 claims to be ceo@sender.com")
    with Dialogue(EXAMPLE, 25 + OFFSET, source_address=("127.0.0.66", 0)) as smtp:
        smtp.ehlo("stranger.example")
        smtp.mail("ceo@sender.com")
        smtp.rcpt("bob@example.com")
        code, reply = smtp.data(b"From: ceo@sender.com\r\nTo: bob@example.com\r\nSubject: Pay now\r\n\r\nPlease.\r\n")
    check(code == 550 and reply.startswith(b"5.7.1"), "refused in the session, by sender.com's DMARC policy")


def main():
    idle = watch_idle()
    began = time.monotonic()
    queue_id = submit()
    whole = read_imap(idle)
    print(f"   {time.monotonic() - began:.2f} s from submission to the last flag")
    read_pop3(whole)
    show_journeys(queue_id)
    spoof()
    print("\nEvery step held.")


main()
