use super::*;

/// `type/subtype[header|body]` in order, children in parentheses.
fn outline(raw: &[u8]) -> String {
    fn show(raw: &[u8], part: &Part, out: &mut String) {
        out.push_str(&part.media.kind);
        out.push('/');
        out.push_str(&part.media.subtype);
        match &part.kind {
            PartKind::Leaf => {
                out.push('[');
                out.push_str(&String::from_utf8_lossy(&raw[part.body()]).escape_debug().to_string());
                out.push(']');
            }
            PartKind::Multipart(children) => {
                out.push('(');
                for child in children {
                    show(raw, child, out);
                }
                out.push(')');
            }
            PartKind::Message(inner) => {
                out.push('{');
                show(raw, &inner.root, out);
                out.push('}');
            }
        }
    }
    let structure = Structure::parse(raw);
    let mut out = String::new();
    show(raw, &structure.root, &mut out);
    out
}

fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

#[test]
fn a_plain_message() {
    let raw = b"Subject: x\r\n\r\nline\r\nend";
    assert_eq!(outline(raw), "text/plain[line\\r\\nend]");
    let root = Structure::parse(raw).root;
    assert_eq!((root.header_start, root.body_start, root.end, root.lines, root.size()), (0, 14, 23, 1, 9));
    assert_eq!(root.media.parameter("charset"), Some(&b"us-ascii"[..]));
}

#[test]
fn nested_multiparts() {
    let raw = crlf(
        "Content-Type: multipart/mixed; boundary=out\n\npreamble\n--out\nContent-Type: multipart/alternative; boundary=\"in\"\n\n--in\n\nplain\n--in\nContent-Type: text/html\nContent-Transfer-Encoding: base64 (x)\nContent-ID: <1>\nContent-Disposition: inline; filename=a\n\n<p>\n--in--\nepilogue\n--out\nContent-Type: image/png\n\n\n--out--\nend\n",
    );
    assert_eq!(outline(&raw), "multipart/mixed(multipart/alternative(text/plain[plain]text/html[<p>])image/png[])");
    let structure = Structure::parse(&raw);
    let leaves = structure.leaves();
    assert_eq!(leaves.len(), 3);
    assert_eq!(leaves[1].encoding.as_deref(), Some(&b"base64"[..]));
    assert_eq!(leaves[1].id.as_deref(), Some(&b"<1>"[..]));
    assert_eq!(leaves[1].disposition.as_ref().map(|d| d.kind.as_str()), Some("inline"));
    assert_eq!(&raw[leaves[0].header()], b"\r\n");
    assert_eq!(structure.root.end, raw.len());
}

#[test]
fn no_final_boundary() {
    let raw = crlf("Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\n\ntwo\n");
    assert_eq!(outline(&raw), "multipart/mixed(text/plain[one]text/plain[two\\r\\n])");
}

#[test]
fn an_inner_part_without_final_boundary_ends_at_the_outer_one() {
    let raw = crlf(
        "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\none\n--o\n\ntwo\n--o--\n",
    );
    assert_eq!(outline(&raw), "multipart/mixed(multipart/mixed(text/plain[one])text/plain[two])");
}

#[test]
fn boundaries_that_begin_one_another() {
    let raw = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\n1\n--bbx\n--bb--\n--b \n\n2\n--b--\n",
    );
    assert_eq!(outline(&raw), "multipart/mixed(multipart/mixed(text/plain[1]text/plain[])text/plain[2])");
    let raw = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=\"b--\"\n\n--b--\n\n1\n--b----\n--b--\n",
    );
    assert_eq!(outline(&raw), "multipart/mixed(multipart/mixed(text/plain[1]))");
}

#[test]
fn parts_with_nothing_in_them() {
    let raw = crlf("Content-Type: multipart/mixed; boundary=b\n\n--b\n--b\nX: y\n--b\n\n--b\n\n\n--b--\n");
    assert_eq!(outline(&raw), "multipart/mixed(text/plain[]text/plain[]text/plain[]text/plain[])");
    for part in Structure::parse(&raw).leaves() {
        assert!(part.header_start <= part.body_start && part.body_start <= part.end);
    }
    assert_eq!(outline(b"Content-Type: multipart/mixed; boundary=b\r\n\r\nno parts"), "multipart/mixed()");
    assert_eq!(outline(b"Content-Type: multipart/mixed\r\n\r\n--x\r\n"), "text/plain[--x\\r\\n]");
    assert_eq!(outline(b""), "text/plain[]");
    let cut = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n--b\nContent-Type: multipart/mixed; boundary=c\n--b--\n",
    );
    assert_eq!(outline(&cut), "multipart/mixed(message/rfc822{text/plain[]}multipart/mixed())");
}

#[test]
fn mixed_line_ends() {
    let raw = b"Content-Type: multipart/mixed; boundary=b\n\n--b\r\n\none\n--b\n\r\ntwo\r\r\n--b--";
    assert_eq!(outline(raw), "multipart/mixed(text/plain[one]text/plain[two\\r])");
}

#[test]
fn a_message_in_a_message() {
    let raw = crlf(
        "Subject: outer\nContent-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: inner\nFrom: a@b\n\nhello\n--b\nContent-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=c\nSubject: third\n\n--c\n\nx\n--c--\n--b--\n",
    );
    assert_eq!(
        outline(&raw),
        "multipart/digest(message/rfc822{text/plain[hello]}message/rfc822{multipart/mixed(text/plain[x])})"
    );
    let structure = Structure::parse(&raw);
    assert_eq!(structure.envelope.subject.as_deref(), Some(&b"outer"[..]));
    let PartKind::Multipart(children) = &structure.root.kind else { panic!("multipart") };
    let PartKind::Message(inner) = &children[0].kind else { panic!("message") };
    assert_eq!(inner.envelope.subject.as_deref(), Some(&b"inner"[..]));
    assert_eq!(inner.root.end, children[0].end);
    assert_eq!(&raw[children[0].body()], b"Subject: inner\r\nFrom: a@b\r\n\r\nhello");
}

#[test]
fn depth_and_number_are_bounded() {
    let mut deep = String::new();
    for i in 0..2000 {
        deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{i}.\n\n--b{i}.\n"));
    }
    let leaves = Structure::parse(deep.as_bytes());
    assert_eq!(leaves.leaves().len(), 1);
    let rfc822 = "Content-Type: message/rfc822\n\n".repeat(5000);
    assert_eq!(Structure::parse(rfc822.as_bytes()).leaves().len(), 1);
    let wide = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(100_000));
    assert!(Structure::parse(wide.as_bytes()).leaves().len() <= MAX_PARTS);
}

#[test]
fn garbage_has_a_structure() {
    let words: [&[u8]; 16] = [
        b"Content-Type: ",
        b"multipart/mixed; boundary=a",
        b"message/rfc822",
        b"\r\n",
        b"\n",
        b"\r",
        b"--a",
        b"--",
        b"\"",
        b"(",
        b";",
        b"text/plain",
        b" ",
        b"\x00\xff",
        b"From: <a@b",
        b"multipart/digest;boundary=\"a--\"",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..3000 {
        let mut raw = Vec::new();
        for _ in 0..60 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            raw.extend_from_slice(words[(state % 16) as usize]);
        }
        let structure = Structure::parse(&raw);
        for part in structure.leaves() {
            assert!(part.header_start <= part.body_start && part.body_start <= part.end && part.end <= raw.len());
        }
        for span in structure.spans() {
            assert!(span.header_start <= span.body_start && span.body_start <= span.end);
            assert!(span.inner_body_start <= span.end);
        }
    }
}
