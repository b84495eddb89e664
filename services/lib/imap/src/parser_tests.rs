use super::*;
use crate::{Section, SectionText, SequenceSet, command::FetchItem, search::Key};

fn body(text: &str) -> CommandBody {
    parse(format!("a1 {text}").as_bytes(), Names::Utf7).unwrap_or_else(|e| panic!("{text}: {e}")).body
}

fn refused(text: &str) -> &'static str {
    parse(format!("a1 {text}").as_bytes(), Names::Utf7).expect_err(text).text
}

#[test]
fn tags() {
    let error = parse(b"", Names::Utf7).expect_err("empty");
    assert_eq!(error.tag, None);
    assert_eq!(parse(b"+x NOOP", Names::Utf7).expect_err("plus").tag, None);
    assert_eq!(parse(b"a1 XYZZY", Names::Utf7).expect_err("unknown").tag.as_deref(), Some("a1"));
    assert_eq!(parse(b"a.1 noop", Names::Utf7).expect("valid").tag, "a.1");
    assert_eq!(tag_of(b"a LOGIN {9}"), Some("a".to_owned()));
}

#[test]
fn commands_without_arguments() {
    for (text, expected) in [
        ("CAPABILITY", CommandBody::Capability),
        ("noop", CommandBody::Noop),
        ("Logout", CommandBody::Logout),
        ("STARTTLS", CommandBody::StartTls),
        ("NAMESPACE", CommandBody::Namespace),
        ("CHECK", CommandBody::Check),
        ("CLOSE", CommandBody::Close),
        ("UNSELECT", CommandBody::Unselect),
        ("EXPUNGE", CommandBody::Expunge(None)),
        ("IDLE", CommandBody::Idle),
    ] {
        assert_eq!(body(text), expected);
    }
    assert_eq!(refused("NOOP x"), "unexpected text after the command");
    assert_eq!(refused("NOOP "), "unexpected text after the command");
}

#[test]
fn login_takes_any_string() {
    let expected = CommandBody::Login { user: b"bob".to_vec(), password: b"p \"w".to_vec() };
    assert_eq!(body(r#"LOGIN bob "p \"w""#), expected);
    assert_eq!(body("LOGIN {3}\r\nbob {4+}\r\np \"w"), expected);
    assert_eq!(body("LOGIN bob x]y"), CommandBody::Login { user: b"bob".to_vec(), password: b"x]y".to_vec() });
    assert_eq!(refused("LOGIN bob"), "space expected");
    assert_eq!(refused("LOGIN bob \"x"), "quoted string is not closed");
    assert_eq!(refused("LOGIN bob {9}\r\nx"), "literal is too short");
}

#[test]
fn authenticate_with_and_without_initial_response() {
    let auth = |initial: Option<&[u8]>| CommandBody::Authenticate {
        mechanism: "PLAIN".into(),
        initial: initial.map(<[u8]>::to_vec),
    };
    assert_eq!(body("AUTHENTICATE plain"), auth(None));
    assert_eq!(body("AUTHENTICATE PLAIN ="), auth(Some(b"")));
    assert_eq!(body("AUTHENTICATE PLAIN AGJvYgBwdw=="), auth(Some(b"\0bob\0pw")));
    assert_eq!(refused("AUTHENTICATE PLAIN !"), "initial response is not base64");
}

#[test]
fn mailbox_names() {
    assert_eq!(body("DELETE inBox"), CommandBody::Delete("INBOX".into()));
    assert_eq!(body("CREATE Entw&APw-rfe"), CommandBody::Create { mailbox: "Entwürfe".into(), special_use: None });
    assert_eq!(
        body("CREATE x (USE (\\sent))"),
        CommandBody::Create { mailbox: "x".into(), special_use: Some("\\Sent".into()) }
    );
    assert_eq!(body("RENAME \"a b\" {3}\r\nc/d"), CommandBody::Rename { from: "a b".into(), to: "c/d".into() });
    assert_eq!(refused("DELETE &"), "mailbox name is not modified UTF-7");
    let utf8 = parse("a DELETE \"a & Entwürfe\"".as_bytes(), Names::Utf8).expect("valid").body;
    assert_eq!(utf8, CommandBody::Delete("a & Entwürfe".into()));
    assert!(parse(b"a DELETE \"\xff\"", Names::Utf8).is_err());
}

#[test]
fn select_list_status_id_enable() {
    assert_eq!(
        body("SELECT INBOX"),
        CommandBody::Select { mailbox: "INBOX".into(), read_only: false, condstore: false, qresync: None }
    );
    assert_eq!(
        body("EXAMINE x (CONDSTORE)"),
        CommandBody::Select { mailbox: "x".into(), read_only: true, condstore: true, qresync: None }
    );
    assert_eq!(refused("SELECT x (NOSUCH)"), "unknown SELECT parameter");
    let CommandBody::List(list) = body("LIST (SUBSCRIBED) \"\" (INBOX a/%) RETURN (CHILDREN STATUS (MESSAGES UNSEEN))")
    else {
        panic!()
    };
    assert!(list.extended && list.select.subscribed && list.returns.children);
    assert_eq!(list.patterns, ["INBOX", "a/%"]);
    assert_eq!(list.returns.status, Some(vec![StatusItem::Messages, StatusItem::Unseen]));
    assert_eq!(body("LSUB \"\" *"), CommandBody::Lsub { reference: String::new(), pattern: "*".into() });
    assert_eq!(
        body("STATUS x (UIDNEXT HIGHESTMODSEQ uidnext)"),
        CommandBody::Status { mailbox: "x".into(), items: vec![StatusItem::UidNext, StatusItem::HighestModSeq] }
    );
    assert_eq!(refused("STATUS x ()"), "STATUS item expected");
    assert_eq!(body("ID NIL"), CommandBody::Id(vec![]));
    assert_eq!(
        body("ID (\"name\" \"mutt\" \"os\" NIL)"),
        CommandBody::Id(vec![("name".into(), Some("mutt".into())), ("os".into(), None)])
    );
    assert_eq!(body("ENABLE condstore IMAP4rev2"), CommandBody::Enable(vec!["CONDSTORE".into(), "IMAP4REV2".into()]));
    assert_eq!(refused(&format!("LIST \"\" {}", "*%".repeat(600))), "mailbox pattern is too long");
}

fn items(text: &str) -> Vec<FetchItem> {
    match body(&format!("FETCH 1 {text}")) {
        CommandBody::Fetch { items, .. } => items,
        _ => panic!("FETCH"),
    }
}

#[test]
fn fetch() {
    use FetchItem as F;
    assert_eq!(items("ALL"), [F::Flags, F::InternalDate, F::Size, F::Envelope]);
    assert_eq!(items("fast"), [F::Flags, F::InternalDate, F::Size]);
    assert_eq!(items("FULL"), [F::Flags, F::InternalDate, F::Size, F::Envelope, F::Body]);
    assert_eq!(items("(UID FLAGS BODYSTRUCTURE MODSEQ)"), [F::Uid, F::Flags, F::BodyStructure, F::ModSeq]);
    let F::Section(section) = &items("BODY.PEEK[1.2.HEADER.FIELDS (From {2}\r\nTo)]<5.10>")[0] else { panic!() };
    let expected = SectionText::Fields { not: false, names: vec![b"From".to_vec(), b"To".to_vec()] };
    assert_eq!(
        (&section.path[..], &section.text, section.peek, section.partial),
        (&[1, 2][..], &expected, true, Some((5, 10)))
    );
    assert!(matches!(&items("RFC822.HEADER")[0], F::Section(Section { text: SectionText::Header, peek: true, .. })));
    assert_eq!(items("BINARY.PEEK[1]<0.5>"), [F::Binary { path: vec![1], peek: true, partial: Some((0, 5)) }]);
    assert_eq!(items("BINARY.SIZE[1.2]"), [F::BinarySize(vec![1, 2])]);
    let CommandBody::Fetch { uid, changed_since, .. } = body("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345)") else {
        panic!()
    };
    assert_eq!((uid, changed_since), (true, Some(12345)));
    for wrong in [
        "",
        "()",
        "X",
        "BODY[",
        "BODY[1.]",
        "BODY[0]",
        "BODY[MIME]",
        "BODY[1HEADER]",
        "BODY[HEADER.FIELDS ()]",
        "BODY[]<0.0>",
        "BODY[]<1>",
        "(FLAGS",
    ] {
        refused(&format!("FETCH 1 {wrong}"));
    }
    assert_eq!(refused(&format!("FETCH 1 BODY[{}1]", "1.".repeat(100))), "section is too deep");
}

#[test]
fn store_copy_expunge() {
    let CommandBody::Store { uid, unchanged_since, mode, silent, flags, .. } =
        body("UID STORE 1,3:* (UNCHANGEDSINCE 7) +FLAGS.SILENT (\\Deleted $x \\Recent $X)")
    else {
        panic!()
    };
    assert_eq!((uid, unchanged_since, mode, silent), (true, Some(7), StoreMode::Add, true));
    assert_eq!(flags, Flags { system: Flags::DELETED, keywords: vec!["$x".into()] });
    assert!(matches!(
        body("STORE 1 FLAGS \\Seen \\Draft"),
        CommandBody::Store { mode: StoreMode::Replace, flags: Flags { system: 17, .. }, .. }
    ));
    assert!(matches!(body("STORE 1 -FLAGS ()"), CommandBody::Store { mode: StoreMode::Remove, .. }));
    assert!(matches!(
        body("UID MOVE $ Trash"),
        CommandBody::Copy { uid: true, set: SequenceSet::Saved, remove: true, .. }
    ));
    assert!(matches!(body("UID EXPUNGE 1:2"), CommandBody::Expunge(Some(_))));
    assert_eq!(refused("EXPUNGE 1"), "unexpected text after the command");
    assert_eq!(refused("UID NOOP"), "unknown UID command");
    assert_eq!(refused("STORE 1 FLAGZ x"), "FLAGS expected");
    assert_eq!(refused("COPY 0 x"), "sequence set expected");
}

#[test]
fn search_is_bounded() {
    let CommandBody::Search(search) =
        body("UID SEARCH RETURN (MIN SAVE) CHARSET utf-8 OR SEEN (DELETED 1:*) SUBJECT {2}\r\nä")
    else {
        panic!()
    };
    assert!(search.uid);
    assert_eq!(search.charset.as_deref(), Some("utf-8"));
    assert!(search.returns.is_some_and(|r| r.min && r.save && !r.all));
    assert!(matches!(&search.key, Key::And(keys) if keys.len() == 2));
    let CommandBody::Search(search) = body("SEARCH RETURN () ALL") else { panic!() };
    assert!(search.returns.is_some_and(|r| r.all));
    assert_eq!(
        refused(&format!("SEARCH {}ALL{}", "(".repeat(10_000), ")".repeat(10_000))),
        "search is nested too deeply"
    );
    assert_eq!(refused(&format!("SEARCH {}ALL", "NOT ".repeat(10_000))), "search is nested too deeply");
    assert_eq!(refused(&format!("SEARCH ALL{}", " ALL".repeat(2000))), "too many search keys");
    for wrong in ["", "()", "SUBJECT", "ON x", "MODSEQ x", "NOT", "OR ALL", "KEYWORD", "RETURN (X) ALL", "(ALL"] {
        refused(&format!("SEARCH {wrong}"));
    }
}

#[test]
fn qresync_partial_and_their_kin() {
    let CommandBody::Select { qresync: Some(q), .. } = body("SELECT x (CONDSTORE QRESYNC (7 9 1:5 (1,3 2,9)))") else {
        panic!()
    };
    assert_eq!((q.uid_validity, q.modseq, q.known.is_some(), q.sample.is_some()), (7, 9, true, true));
    assert!(
        matches!(body("SELECT x (QRESYNC (7 9))"), CommandBody::Select { qresync: Some(q), .. } if q.known.is_none())
    );
    let CommandBody::Select { qresync: Some(q), .. } = body("SELECT x (QRESYNC (7 9 (1 2)))") else { panic!() };
    assert_eq!((q.known, q.sample.is_some()), (None, true));
    for wrong in ["(QRESYNC)", "(QRESYNC (0 1))", "(QRESYNC (1 1 $$))", "(QRESYNC (1 1 1:2 (1)))", "(X)"] {
        refused(&format!("SELECT x {wrong}"));
    }
    let CommandBody::Fetch { changed_since, vanished, partial, .. } =
        body("UID FETCH 1:* FLAGS (CHANGEDSINCE 5 VANISHED PARTIAL -1:-100)")
    else {
        panic!()
    };
    assert_eq!((changed_since, vanished, partial.map(|p| p.to_string())), (Some(5), true, Some("-1:-100".into())));
    assert_eq!(refused("UID FETCH 1 FLAGS (VANISHED)"), "VANISHED needs CHANGEDSINCE");
    assert_eq!(refused("FETCH 1 FLAGS (CHANGEDSINCE 5 VANISHED)"), "unknown FETCH modifier");
    assert_eq!(refused("SEARCH RETURN (ALL PARTIAL 1:5) ALL"), "ALL and PARTIAL exclude each other");
    refused("SEARCH RETURN (PARTIAL -1:5) ALL");
    let CommandBody::Sort { criteria, search } = body("UID SORT RETURN (COUNT) (REVERSE DATE SUBJECT) UTF-8 UNSEEN")
    else {
        panic!()
    };
    assert_eq!((criteria.len(), criteria[0].reverse, search.uid), (2, true, true));
    for wrong in ["SORT () UTF-8 ALL", "SORT (X) UTF-8 ALL", "SORT (REVERSE) UTF-8 ALL", "THREAD REFS UTF-8 ALL"] {
        refused(wrong);
    }
    assert!(matches!(body("THREAD REFERENCES UTF-8 ALL"), CommandBody::Thread { .. }));
    let CommandBody::GetMetadata(get) = body("GETMETADATA (DEPTH 1) \"INBOX\" (/private/Comment /shared/x)") else {
        panic!()
    };
    assert_eq!((get.depth, get.entries[0].as_str(), get.mailbox.as_str()), (Some(1), "/private/comment", "INBOX"));
    assert!(
        matches!(body("GETMETADATA \"\" (MAXSIZE 5) /shared/x"), CommandBody::GetMetadata(g) if g.max_size == Some(5))
    );
    let CommandBody::SetMetadata { entries, .. } = body("SETMETADATA INBOX (/private/a {1+}\r\nx /private/b NIL)")
    else {
        panic!()
    };
    assert_eq!(entries, [("/private/a".to_owned(), Some(b"x".to_vec())), ("/private/b".to_owned(), None)]);
    for wrong in ["/other/x", "/private/x/", "/private//x", "/private/*", "/private"] {
        refused(&format!("GETMETADATA INBOX \"{wrong}\""));
    }
}

#[test]
fn appends_without_a_literal() {
    assert_eq!(refused("APPEND INBOX"), "space expected");
    assert_eq!(refused("APPEND INBOX (\\Seen) "), "APPEND needs a literal");
    let CommandBody::Append(head) = body("UID REPLACE 7 INBOX CATENATE (URL \"/x/;UID=1\" URL {2}\r\nab)") else {
        panic!()
    };
    assert_eq!((head.pieces.len(), head.replaces.is_some()), (3, true));
}

#[test]
fn garbage_never_panics() {
    let words: [&str; 32] = [
        "a ",
        "UID ",
        "FETCH ",
        "SEARCH ",
        "STORE ",
        "LIST ",
        "(",
        ")",
        "[",
        "]",
        "<",
        ">",
        "\"",
        "\\",
        "{3}\r\n",
        "1:*",
        ",",
        "BODY",
        "BODY.PEEK[",
        "HEADER.FIELDS ",
        "NOT ",
        "OR ",
        "FLAGS ",
        "+",
        "1.2",
        " ",
        "\u{e4}",
        "&",
        "RETURN ",
        "STATUS ",
        "NIL",
        "$",
    ];
    let mut state = 0xdead_beef_cafe_f00d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut text = String::from("t ");
        for _ in 0..12 {
            text.push_str(words[(next() % 32) as usize]);
        }
        let _ = parse(text.as_bytes(), Names::Utf7);
        let bytes: Vec<u8> = (0..40).map(|_| next() as u8).collect();
        let _ = parse(&bytes, Names::Utf8);
        let _ = crate::parse_append_head(&bytes, Names::Utf7);
    }
}
