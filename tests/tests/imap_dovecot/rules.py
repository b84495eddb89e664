# Where the answers may differ, and why. Each rule: where, path of the value, ours, Dovecot's, the message.


@rule("addresses: Dovecot invents MISSING_MAILBOX or MISSING_DOMAIN for what is no address, and stops there; we leave out "
      "empty list elements (RFC 5322 4.4, obs-addr-list) and give no domain as an empty string, because NIL marks groups (RFC 9051 7.5.2)")
def missing(where, path, ours, theirs, raw):
    return is_addresses(theirs) and b"MISSING_" in repr(theirs).encode()


def words(value):
    """Types, encodings and names of parameters do not know case (RFC 2045 5.1, 6.1)."""
    if isinstance(value, list):
        return [words(v) for v in value]
    return value.lower() if isinstance(value, bytes) else value


def structure(where):
    return where in ("(BODY)", "(BODYSTRUCTURE)")


@rule("BODYSTRUCTURE: Dovecot keeps the case of types and parameter names, we give them in lower case (RFC 2045 5.1: they do not know case)")
def case(where, path, ours, theirs, raw):
    return structure(where) and words(ours) == words(theirs)


@rule("BODYSTRUCTURE: Dovecot adds charset=us-ascii to a text part that names none; we do so only where there is no Content-Type at all "
      "(RFC 9051 7.5.2 shows what the header says)")
def default_charset(where, path, ours, theirs, raw):
    if not structure(where) or not isinstance(theirs, list):
        return False
    rest = [x for i, x in enumerate(theirs) if not (theirs[i - i % 2] == b"charset" and theirs[i - i % 2 + 1:i - i % 2 + 2] == [b"us-ascii"])]
    return (ours or []) == rest


@rule("BODY[n]: for a part that is not there Dovecot gives an empty string, we NIL (RFC 9051 7.5.2, nstring: NIL says that it does not exist)")
def no_part(where, path, ours, theirs, raw):
    return where.startswith("(BODY.PEEK[") and ours is None and theirs == b""


@rule("BODY[1.MIME]: in a message that is no multipart, part 1 has no MIME header of its own (RFC 9051 6.4.5.1): NIL here, some header at Dovecot")
def no_mime_header(where, path, ours, theirs, raw):
    return where.startswith("(BODY.PEEK[") and where.endswith(".MIME])") and ours is None


@rule("BODYSTRUCTURE: a Content-Type that is no type is text/plain here (RFC 2045 5.2), and an empty string or an odd value at Dovecot")
def broken_type(where, path, ours, theirs, raw):
    odd = [b"Content-Type: /plain", b"Content-Type: text\r\n", b"Content-Type: text/\r\n", b'charset="unclosed']
    return structure(where) and any(o in raw for o in odd)


@rule("ENVELOPE: of a field that stands twice (RFC 5322 3.6 allows it once) the first counts here, the last at Dovecot")
def twice(where, path, ours, theirs, raw):
    names = {0: b"date", 1: b"subject", 8: b"in-reply-to", 9: b"message-id"}
    if where != "(ENVELOPE)" or len(path) != 2 or path[1] not in names:
        return False
    lines = raw.split(b"\r\n\r\n")[0].lower().split(b"\r\n")
    return sum(line.startswith(names[path[1]] + b":") for line in lines) > 1


@rule("BODY[HEADER.FIELDS.NOT]: a line that is no field stands with what it is near: without a colon it is nobody's field (RFC 5322 2.2)")
def no_field(where, path, ours, theirs, raw):
    header = raw.split(b"\r\n\r\n")[0].split(b"\r\n")
    return "HEADER.FIELDS.NOT" in where and any(b":" not in line and not line[:1].isspace() for line in header)


@rule("SEARCH CC: the name of a group stands in the field too (RFC 9051 6.4.4, substring of the envelope's field); Dovecot does not look at it "
      "where the list is broken")
def group_name(where, path, ours, theirs, raw):
    return where == "SEARCH CC team" and ours is True and b"team:" in raw


def header_of(raw):
    return raw.split(b"\r\n\r\n")[0] + b"\r\n"


def field(raw, name):
    """The value of a field of the message's own header, or None."""
    found = re.search(rb"(?im)^" + name + rb":((?:.*\r\n[ \t])*.*)\r\n", header_of(raw))
    return found and found[1].replace(b"\r\n", b"").strip()


def addresses_are_broken(value):
    """Whether it is no address-list of RFC 5322 3.4: an element is empty, or is no mailbox."""
    value = re.sub(rb'"(?:\\.|[^"\\])*"', b"q", value)
    value = re.sub(rb"\((?:\\.|[^()\\])*\)", b"", value)
    value = re.sub(rb"[^,:<>]*:([^;]*);", lambda g: g[1] if g[1].strip() else b"g@g", value)
    mailbox = rb"\s*(?:[^<>@,]*<(?:@[^:>]+:)?[^@<>\s]+@[^@<>\s]+>|[^\s@<>]+@[^\s@<>]+)\s*"
    return any(not re.fullmatch(mailbox, element) for element in value.split(b","))


def both(raw):
    """The two messages that SORT has in another order."""
    return raw.split(b"\r\n=====\r\n")


@rule("SEARCH TO, CC, BCC, FROM: the field is searched as it stands (RFC 9051 6.4.4: the string is in the field); Dovecot looks only at the "
      "addresses that it could read, and a list that is none (RFC 5322 3.4) stops it")
def broken_list(where, path, ours, theirs, raw):
    found = re.match(r"SEARCH (TO|CC|BCC|FROM) ", where)
    value = found and field(raw, found[1].encode())
    return bool(found) and value is not None and addresses_are_broken(value)


@rule("SORT FROM, TO, CC, DISPLAYFROM: an element that is no address gives its words as mailbox here, and is left out at Dovecot or takes the "
      "rest of the list along (RFC 5256 2.2 leaves it open)")
def sort_broken_list(where, path, ours, theirs, raw):
    found = re.fullmatch(r"SORT (?:DISPLAY)?(FROM|TO|CC)", where)
    values = [field(one, found[1].encode()) for one in both(raw)] if found else []
    return any(value is not None and addresses_are_broken(value) for value in values)


def date_is_odd(raw):
    """The Date field is none that a Unix time above 0 can say."""
    import email.utils
    value = field(raw, b"Date")
    if value is None:
        return False
    try:
        return email.utils.parsedate_to_datetime(value.decode("latin-1")).timestamp() <= 0
    except (ValueError, TypeError, OverflowError):
        return True


@rule("SENTBEFORE, SENTSINCE, SORT DATE: a Date before 1970 is one (RFC 5322 3.3), and one that is missing or cannot be read does not match, or counts as INTERNALDATE in SORT "
      "(RFC 9051 6.4.4, RFC 5256 2.2); at Dovecot 1 January 1970 00:00 is no date, and earlier ones lie in the future")
def odd_date(where, path, ours, theirs, raw):
    if where.startswith("SEARCH SENT"):
        return date_is_odd(raw) or field(raw, b"Date") is None
    return bool(re.match(r"SORT .*DATE", where)) and any(date_is_odd(one) for one in both(raw))


@rule("SORT SUBJECT: '=?broken ' is no encoded word, for none has a blank in it (RFC 2047 2), and the one after it is; Dovecot reads to the next '?='")
def broken_word(where, path, ours, theirs, raw):
    return where.startswith("SORT SUBJECT") and any(b"=?broken" in (field(one, b"Subject") or b"") for one in both(raw))


def entities(raw):
    """The headers of all entities, as far as empty lines and boundary lines tell."""
    return re.findall(rb"(?:\A|(?<=\r\n)--b\d+[^\r\n]*\r\n|(?<=\r\n)\r\n)((?:[^\r\n]+\r\n)+)", raw)


@rule("BODY, BODYSTRUCTURE: Content-* fields of a message without MIME-Version count here (RFC 2045 4 leaves it to the reader); Dovecot takes only the type")
def no_mime_version(where, path, ours, theirs, raw):
    of_message = rb"(?im)^(message-id|date|from|to|cc|bcc|subject|sender|reply-to|in-reply-to|references|x-folded):"
    lacks = any(re.search(of_message, e) and b"mime-version:" not in e.lower() for e in entities(raw))
    return structure(where) and lacks and theirs in (None, b"7bit") and ours is not None


@rule("BODY[n], BODYSTRUCTURE: the line end before a boundary belongs to the boundary (RFC 2046 5.1.1), also where a header runs into it; Dovecot "
      "counts it to the part there")
def cut_header(where, path, ours, theirs, raw):
    if isinstance(theirs, bytes) and isinstance(ours, bytes):
        # The empty line after a header may be that line end at the same time.
        shared = ours == theirs + b"\r\n" and where.endswith(".MIME])") and re.search(re.escape(ours) + rb"--b\d", raw)
        return bool(shared or theirs == ours + b"\r\n" and re.search(re.escape(ours) + rb"\r\n--b\d", raw))
    is_cut = re.search(rb"\r\n--b\d[^\r\n]*\r\n(?:[^\r\n]+\r\n)*(?:\r\n)*(?:[^\r\n]+\r\n)*(?:\r\n)?--b\d", raw)
    number = lambda value: int(value[1]) if isinstance(value, tuple) and value[1].isdigit() else None
    return structure(where) and bool(is_cut) and number(ours) is not None and number(theirs) in (number(ours) + 1, number(ours) + 2)


@rule("BODY[1.1], BODY[1.TEXT]: a part that is neither multipart nor message has no parts, and no header and text of its own "
      "(RFC 9051 6.4.5.1): NIL; Dovecot gives the part itself")
def of_a_leaf(where, path, ours, theirs, raw):
    return where in ("(BODY.PEEK[1.1])", "(BODY.PEEK[1.TEXT])") and ours is None and theirs == SAID["(BODY.PEEK[1])", raw][1][0]


@rule("SEARCH BODY: a Content-Type that is no type is text/plain (RFC 2045 5.2) and searched; at Dovecot it is no text")
def search_broken_type(where, path, ours, theirs, raw):
    return " BODY " in where and ours is True and bool(re.search(rb"Content-Type: (/plain|text/?)\r\n", raw))


@rule("SEARCH BODY: a multipart or message has no transfer encoding but an identity (RFC 2045 6.4): one that it names all the same is passed over, "
      "Dovecot decodes the parts with it")
def composite_encoding(where, path, ours, theirs, raw):
    composite = rb"(?im)^content-type: (multipart|message)/"
    encoded = rb"(?im)^content-transfer-encoding: (base64|quoted-printable|x-unknown)"
    return " BODY " in where and any(re.search(composite, e) and re.search(encoded, e) for e in entities(raw))


@rule("SEARCH BODY: octets that are not base64 are ignored (RFC 2045 6.8); Dovecot's decoder ends at them")
def broken_base64(where, path, ours, theirs, raw):
    encoded = [e.end() for e in re.finditer(rb"(?i)content-transfer-encoding: base64\r\n(?:[^\r\n]+\r\n)*\r\n", raw)]
    bodies = [raw[at:].split(b"\r\n--b")[0] for at in encoded]
    return " BODY " in where and any(re.search(rb"[^A-Za-z0-9+/=\s]|=[^=\s]|line \d", body) for body in bodies)


@rule("SEARCH BODY: a text whose transfer encoding nobody knows is searched as it stands; Dovecot leaves it out "
      "(RFC 2045 6.4 takes it for octets; RFC 9051 6.4.4 lets a server find more)")
def unknown_encoding(where, path, ours, theirs, raw):
    return " BODY " in where and ours is True and b"Content-Transfer-Encoding: x-unknown" in raw


@rule("THREAD REFERENCES: a missing parent has the subject of its first child by date (RFC 5256 3, step 4 and 5.B), and of dates before 1970 "
      "or none see SENTBEFORE")
def thread_dates(where, path, ours, theirs, raw):
    subjects = [field(one, b"Subject") for one in both(raw)]
    return where == "THREAD REFERENCES" and len(subjects) > len(set(subjects)) and any(date_is_odd(one) for one in both(raw))
