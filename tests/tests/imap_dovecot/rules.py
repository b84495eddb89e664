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
