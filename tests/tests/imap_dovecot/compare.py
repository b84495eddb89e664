"""Asks two servers the same and compares the answers, value by value.

Arguments: our port, Dovecot's port, number of messages, seed, file of rules; -v shows messages. Prints every kind of
difference with its count and the rule that justifies it; a difference without a rule ends the run with an error.
"""
import random, re, socket, sys

ours_port, theirs_port, count, seed = map(int, sys.argv[1:5])
rng = random.Random(seed)


class Imap:
    def __init__(self, port):
        self.file = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
        self.file.readline()
        self.tag = 0
        self.ask(b"LOGIN bob@example.com secret")

    def response(self):
        out = b""
        while True:
            line = self.file.readline()
            assert line, "connection closed"
            out += line
            found = re.search(rb"\{(\d+)\}\r\n$", line)
            if not found:
                return out[:-2]
            out += self.file.read(int(found[1]))

    def ask(self, command, literal=None):
        self.tag += 1
        tag = b"t%d" % self.tag
        if literal is not None:
            self.file.write(tag + b" " + command + b" {%d}\r\n" % len(literal))
            self.file.flush()
            first = self.response()
            assert first.startswith(b"+"), first
            self.file.write(literal + b"\r\n")
        else:
            self.file.write(tag + b" " + command + b"\r\n")
        self.file.flush()
        lines = []
        while True:
            line = self.response()
            if line.startswith(tag + b" "):
                return line[len(tag) + 1:], lines
            lines.append(line)


def parse(text):
    """Lists, strings, atoms and NIL of a response."""
    at, stack = 0, [[]]
    while at < len(text):
        c = text[at:at + 1]
        if c == b" ":
            at += 1
        elif c == b"(":
            stack.append([])
            at += 1
        elif c == b")":
            done = stack.pop()
            stack[-1].append(done)
            at += 1
        elif c == b'"':
            end, value = at + 1, b""
            while text[end:end + 1] != b'"':
                if text[end:end + 1] == b"\\":
                    end += 1
                value += text[end:end + 1]
                end += 1
            stack[-1].append(value)
            at = end + 1
        elif c in b"{~":
            found = re.compile(rb"~?\{(\d+)\}\r\n").match(text, at)
            size = int(found[1])
            stack[-1].append(text[found.end():found.end() + size])
            at = found.end() + size
        else:
            # Atoms, with sections such as BODY[HEADER.FIELDS (X)]<0>.
            found = re.compile(rb"[^ ()\[\]\"{]*(\[[^\]]*\](<\d+>)?)?").match(text, at)
            word = found[0] or c
            stack[-1].append(None if word.upper() == b"NIL" else ("atom", word.upper()))
            at += len(word)
    return stack[0]


# --- messages that people and programs really send, and worse
WORDS = ["hello", "Grüße", "report", "a b", "=?utf-8?q?J=C3=B6rg?=", "=?iso-8859-1?b?5A==?=", "=?broken", "\u65e5\u672c", "x" * 90]
ADDRESSES = [
    "a@x.example", "Bob <bob@x.example>", '"Quoted, Name" <q@x.example>', "(comment) c@x.example (after)", "<only@x.example>",
    "undisclosed-recipients:;", "team: a@x.example, Bob <b@y.example>;", '"quoted local"@x.example', "no-at-sign",
    "A B C <abc@x.example>", "=?utf-8?q?J=C3=B6rg?= <j@x.example>", "<@route.example:r@x.example>", "Bob bob@x.example",
    "dots.in.name@x.example", "Bob <bob@[192.0.2.1]>", '"esc \\" aped" <e@x.example>', "a@x.example,", "Grüße <g@x.example>", "",
]
DATES = ["Mon, 7 Feb 1994 21:52:25 -0800 (PST)", "Tue, 1 Jul 2003 10:52:37 +0200", "1 Jan 70 00:00", "garbage", "Thu, 13 Feb 1969 23:32 -0330"]
TYPES = [
    "text/plain", "text/plain; charset=utf-8", "TEXT/HTML; CHARSET=\"iso-8859-1\"", "text/plain; charset=us-ascii; format=flowed",
    "image/png; name=\"a b.png\"", "application/octet-stream", "text", "text/", "/plain", "application/x-foo; a=1; b=\"2;3\"; c",
    "text/plain; name*=utf-8''%e4", "audio/basic; name=x (comment)", "message/delivery-status", "text/plain; charset=\"unclosed",
]
ENCODINGS = ["7bit", "8bit", "base64", "quoted-printable", "BASE64", "x-unknown", "binary"]


def header_fields():
    out = []
    if rng.random() < 0.9:
        out.append("Subject: " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 4))))
    for name in ["From", "Sender", "Reply-To", "To", "Cc", "Bcc"]:
        if rng.random() < 0.5:
            out.append(name + ": " + ", ".join(rng.choice(ADDRESSES) for _ in range(rng.randint(1, 3))))
    if rng.random() < 0.8:
        out.append("Date: " + rng.choice(DATES))
    if rng.random() < 0.8:
        out.append("Message-ID: <%d@x.example>" % rng.randint(1, 200))
    if rng.random() < 0.4:
        out.append("References: " + " ".join("<%d@x.example>" % rng.randint(1, 200) for _ in range(rng.randint(1, 4))))
    if rng.random() < 0.3:
        out.append("In-Reply-To: <%d@x.example>" % rng.randint(1, 200))
    if rng.random() < 0.2:
        out.append("X-Folded: one\r\n two\r\n\tthree")
    if rng.random() < 0.1:
        out.append("no colon here")
    rng.shuffle(out)
    return out


def entity(depth):
    """Content fields and body."""
    fields, kind = [], rng.random()
    if depth < 4 and kind < 0.35:
        boundary = "b%d" % rng.randint(1, 99)
        sub = rng.choice(["mixed", "alternative", "digest", "related; type=\"text/html\"", "x-odd"])
        fields.append("Content-Type: multipart/%s; boundary=%s" % (sub, rng.choice(['"%s"' % boundary, boundary])))
        if rng.random() < 0.1:
            boundary += "wrong"
        body = rng.choice(["", "preamble\r\n"])
        for _ in range(rng.randint(0, 3)):
            inner_fields, inner = entity(depth + 1)
            body += "--%s%s\r\n%s\r\n%s\r\n" % (boundary, rng.choice(["", "", "  "]), "".join(f + "\r\n" for f in inner_fields), inner)
        if rng.random() < 0.85:
            body += "--%s--\r\n" % boundary
            body += rng.choice(["", "epilogue\r\n"])
    elif depth < 4 and kind < 0.5:
        fields.append("Content-Type: message/rfc822")
        body = message(depth + 1)
    else:
        if rng.random() < 0.85:
            fields.append("Content-Type: " + rng.choice(TYPES))
        body = "".join(rng.choice(["line %d\r\n" % n, "\r\n", "Grüße\r\n", "SGVsbG8=\r\n", "=C3=A4=\r\n"]) for n in range(rng.randint(0, 5)))
        if rng.random() < 0.3:
            body += "no line end"
    for field in ["Content-Transfer-Encoding: " + rng.choice(ENCODINGS), "Content-ID: <id@x>", "Content-Description: a thing",
                  "Content-Disposition: " + rng.choice(["inline", "attachment; filename=\"f.txt\"", "ATTACHMENT", "attachment; size=5"]),
                  "Content-Language: " + rng.choice(["de", "de, en"]), "Content-Location: http://x.example/y", "Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ=="]:
        if rng.random() < 0.25:
            fields.append(field)
    return fields, body


def message(depth=0):
    fields, body = entity(depth)
    fields = header_fields() + (["MIME-Version: 1.0"] if rng.random() < 0.9 else []) + fields
    return "".join(f + "\r\n" for f in fields) + "\r\n" + body


messages = [message().encode("utf-8", "replace") for _ in range(count)]
for n in range(count):
    if rng.random() < 0.02:
        # A header that never ends.
        messages[n] = messages[n].replace(b"\r\n\r\n", b"\r\n", 1)
servers = [Imap(ours_port), Imap(theirs_port)]
for server in servers:
    server.ask(b"SELECT INBOX")
    server.ask(b"STORE 1:* +FLAGS.SILENT (\\Deleted)")
    server.ask(b"EXPUNGE")
for n, raw in enumerate(messages):
    date = b'"%02d-Jan-2024 10:%02d:00 +0000"' % (n % 28 + 1, n % 60)
    flags = [b"()", b"(\\Seen)", b"(\\Flagged \\Seen)", b"(\\Answered $Work)"][n % 4]
    for server in servers:
        answer, _ = server.ask(b"APPEND INBOX " + flags + b" " + date, raw)
        assert answer.startswith(b"OK"), (answer, raw)
for server in servers:
    server.ask(b"SELECT INBOX")

differences, examples = {}, {}


def differ(rule, where, ours, theirs, raw=None):
    differences[rule] = differences.get(rule, 0) + 1
    examples.setdefault(rule, []).append((where, ours, theirs, raw))


def fetched(server, items):
    _, lines = server.ask(b"FETCH 1:* " + items)
    out = {}
    for line in lines:
        found = re.match(rb"\* (\d+) FETCH ", line)
        if found:
            pairs = parse(line[found.end():])[0]
            out[int(found[1])] = {pairs[i][1]: pairs[i + 1] for i in range(0, len(pairs), 2)}
    return out


def lower(value):
    return value.lower() if isinstance(value, bytes) else value


def parameters(value):
    return value if not isinstance(value, list) else sorted((lower(value[i]), value[i + 1]) for i in range(0, len(value), 2))


RULES = []


def rule(name):
    def add(test):
        RULES.append((name, test))
        return test
    return add


exec(open(sys.argv[5]).read())


def is_addresses(value):
    return isinstance(value, list) and value and all(isinstance(x, list) and len(x) == 4 for x in value)


def walk(path, a, b, found):
    """Leaves where two values differ; lists of addresses are one value."""
    if a != b and (is_addresses(a) or is_addresses(b)) and path:
        found.append((path, a, b))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            walk(path + [i], x, y, found)
    elif a != b:
        found.append((path, a, b))


# What both said to an item about a message, for rules that look further than one value.
SAID = {}


def compare(where, ours, theirs, raw):
    SAID[where, raw] = (ours, theirs)
    found = []
    walk([], ours, theirs, found)
    for path, a, b in found:
        for name, test in RULES:
            if test(where, path, a, b, raw):
                differ(name, where, a, b, raw)
                break
        else:
            differ(None, "%s %s" % (where, path), a, b, raw)


checked = 0
for items in [b"(RFC822.SIZE INTERNALDATE)", b"(ENVELOPE)", b"(BODY)", b"(BODYSTRUCTURE)", b"(BODY.PEEK[])", b"(BODY.PEEK[HEADER])",
              b"(BODY.PEEK[TEXT])", b"(BODY.PEEK[1])", b"(BODY.PEEK[1.MIME])", b"(BODY.PEEK[2])", b"(BODY.PEEK[1.1])", b"(BODY.PEEK[2.HEADER])",
              b"(BODY.PEEK[1.TEXT])", b"(BODY.PEEK[2.1.MIME])", b"(BODY.PEEK[HEADER.FIELDS (Subject TO x-folded)])",
              b"(BODY.PEEK[HEADER.FIELDS.NOT (Subject From)])", b"(BODY.PEEK[]<10.50>)", b"(BODY.PEEK[TEXT]<0.7>)", b"(FLAGS)"]:
    ours, theirs = (fetched(server, items) for server in servers)
    for n in range(1, count + 1):
        checked += 1
        compare(items.decode(), [v for _, v in sorted(ours[n].items())], [v for _, v in sorted(theirs[n].items())], messages[n - 1])

for search in [b"SUBJECT hello", b"SUBJECT report", b"FROM bob", b"TO x.example", b"CC team", b"BCC q@", b"HEADER X-Folded two", b"HEADER Message-ID \"\"",
               b"BODY \"line 2\"", b"BODY Hello", b"TEXT \"thing\"", b"SENTBEFORE 1-Jan-2000", b"SENTON 7-Feb-1994", b"SENTSINCE 1-Jul-2003", b"ON 5-Jan-2024",
               b"BEFORE 10-Jan-2024", b"SINCE 20-Jan-2024", b"LARGER 500", b"SMALLER 300", b"SEEN FLAGGED", b"UNSEEN", b"KEYWORD $WORK", b"NOT SEEN OR FLAGGED ANSWERED",
               b"1:50 UID 20:100", b"OR SUBJECT hello SUBJECT report", b"CHARSET UTF-8 SUBJECT J\xc3\xb6rg", b"CHARSET UTF-8 BODY Gr\xc3\xbc\xc3\x9fe"]:
    # 8-bit arguments go in a literal for Dovecot's sake.
    results = []
    for server in servers:
        if any(b > 127 for b in search):
            text, word = search.rsplit(b" ", 1)
            answer, lines = server.ask(b"SEARCH " + text, word)
        else:
            answer, lines = server.ask(b"SEARCH " + search)
        assert answer.startswith(b"OK"), (search, answer)
        results.append({int(w) for line in lines if line.startswith(b"* SEARCH") for w in line.split()[2:]})
    for n in range(1, count + 1):
        checked += 1
        if (n in results[0]) != (n in results[1]):
            compare("SEARCH " + search.decode(), [n in results[0]], [n in results[1]], messages[n - 1])

for sort in [b"ARRIVAL", b"SIZE", b"SUBJECT", b"FROM", b"TO", b"CC", b"DATE", b"REVERSE SIZE", b"SUBJECT REVERSE DATE", b"DISPLAYFROM"]:
    orders = []
    for server in servers:
        answer, lines = server.ask(b"SORT (" + sort + b") UTF-8 ALL")
        assert answer.startswith(b"OK"), (sort, answer)
        orders.append([int(w) for line in lines if line.startswith(b"* SORT") for w in line.split()[2:]])
    assert sorted(orders[0]) == list(range(1, count + 1))
    checked += count
    if orders[0] != orders[1]:
        # Where two neighbours of ours stand the other way round at Dovecot's.
        place = {n: i for i, n in enumerate(orders[1])}
        for a, b in zip(orders[0], orders[0][1:]):
            if place[a] > place[b]:
                compare("SORT " + sort.decode(), [a], [b], messages[a - 1] + b"\r\n=====\r\n" + messages[b - 1])

for algorithm in [b"REFERENCES", b"ORDEREDSUBJECT"]:
    trees = []
    for server in servers:
        answer, lines = server.ask(b"THREAD " + algorithm + b" UTF-8 ALL")
        if not answer.startswith(b"OK"):
            trees.append(None)
            continue
        trees.append([parse(line[9:]) for line in lines if line.startswith(b"* THREAD")][0])
    if trees[1] is not None:
        checked += count
        members = lambda t: sorted(sorted(int(n) for n in re.findall(r"\d+", str(x))) for x in t)
        if members(trees[0]) != members(trees[1]):
            # Threads that only one of the two has, with the messages in them.
            ours, theirs = ([t for t in members(trees[i]) if t not in members(trees[1 - i])] for i in (0, 1))
            touched = sorted({n for t in ours + theirs for n in t})
            compare("THREAD " + algorithm.decode(), [ours], [theirs], b"\r\n=====\r\n".join(messages[n - 1] for n in touched))

for name, number in sorted(differences.items(), key=lambda d: str(d[0])):
    print("%6d  %s" % (number, name or "UNEXPLAINED"))
    shown = {}
    for where, a, b, raw in examples[name]:
        kind = where.rsplit(" [", 1)[0]
        shown[kind] = shown.get(kind, 0) + 1
        if shown[kind] > (4 if name is None else 1):
            continue
        print("        %s: ours %r, Dovecot %r" % (where, a if len(repr(a)) < 300 else repr(a)[:300], b if len(repr(b)) < 300 else repr(b)[:300]))
        if name is None and "-v" in sys.argv:
            print("        ", raw[:6000])
if None in differences:
    kinds = {}
    for where, *_ in examples[None]:
        kinds[where.split("[")[0]] = kinds.get(where.split("[")[0], 0) + 1
    print(kinds)
print("%d values compared over %d messages, %d kinds of difference" % (checked, count, len(differences)))
sys.exit(1 if None in differences else 0)
