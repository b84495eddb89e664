//! Dialogues with the gateway, over a real socket, against an mda in memory.

use std::{sync::atomic::Ordering, time::Duration};

use super::support::System;

const HI: &[u8] =
    b"From: Alice <alice@sender.com>\r\nSubject: Hi\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\nhello bob\r\n";
const PARTS: &[u8] = b"Subject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+\r\n--b--\r\n";

#[tokio::test]
async fn folders() {
    let system = System::start().await;
    system.fake.deliver(HI);
    system
        .selected()
        .await
        .play(
            "C: a LIST \"\" \"*\"
             S: * LIST (\\HasNoChildren) \"/\" \"INBOX\"
             S: * LIST (\\HasNoChildren \\Sent) \"/\" \"Sent\"
             S: * LIST (\\HasNoChildren \\Trash) \"/\" \"Trash\"
             S: a OK …
             C: b CREATE Entw&APw-rfe/
             S: b OK …
             C: c CREATE Entw&APw-rfe
             S: c NO [ALREADYEXISTS] …
             C: d RENAME Entw&APw-rfe x
             S: d OK …
             C: e UNSUBSCRIBE x
             S: e OK …
             C: f LSUB \"\" %
             S: * LSUB () \"/\" \"INBOX\"
             S: * LSUB () \"/\" \"Sent\"
             S: * LSUB () \"/\" \"Trash\"
             S: f OK …
             C: g DELETE nowhere
             S: g NO [NONEXISTENT] …
             C: h STATUS INBOX (MESSAGES UNSEEN UIDNEXT UIDVALIDITY RECENT SIZE HIGHESTMODSEQ)
             S: * STATUS \"INBOX\" (MESSAGES 1 UNSEEN 1 UIDNEXT 2 UIDVALIDITY 7 RECENT 1 SIZE 96 HIGHESTMODSEQ 2)
             S: h OK …
             C: i LIST (SPECIAL-USE) \"\" * RETURN (STATUS (MESSAGES))
             S: * LIST (\\HasNoChildren \\Sent) \"/\" \"Sent\"
             S: * LIST (\\HasNoChildren \\Trash) \"/\" \"Trash\"
             S: * STATUS \"Sent\" (MESSAGES 0)
             S: * STATUS \"Trash\" (MESSAGES 0)
             S: i OK …
             C: j STATUS nowhere (MESSAGES)
             S: j NO [NONEXISTENT] …",
        )
        .await;
}

#[tokio::test]
async fn select_tells_what_there_is() {
    let system = System::start().await;
    system.fake.deliver(HI);
    system
        .selected()
        .await
        .play(
            "C: a SELECT INBOX
             S: * OK [CLOSED] …
             S: * FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)
             S: * OK [PERMANENTFLAGS (…\\*)] …
             S: * 1 EXISTS
             S: * 0 RECENT
             S: * OK [UNSEEN 1] …
             S: * OK [UIDVALIDITY 7] …
             S: * OK [UIDNEXT 2] …
             S: * OK [HIGHESTMODSEQ 2] …
             S: * OK [MAILBOXID (F1)] …
             S: a OK [READ-WRITE] …
             C: b SELECT nowhere
             S: * OK [CLOSED] …
             S: b NO [NONEXISTENT] …
             C: c FETCH 1 FLAGS
             S: c BAD …
             C: d EXAMINE INBOX
             S: * FLAGS …
             S: * OK [PERMANENTFLAGS ()] …
             S: * 1 EXISTS
             S: * 0 RECENT
             S: * OK [UNSEEN 1] …
             S: * OK …
             S: * OK …
             S: * OK …
             S: * OK [MAILBOXID (F1)] …
             S: d OK [READ-ONLY] …
             C: e STORE 1 +FLAGS (\\Seen)
             S: e NO …
             C: f FETCH 1 BODY[]<0.4>
             S: * 1 FETCH (BODY[]<0> {4}
             S: From)
             S: f OK …
             C: g FETCH 1 FLAGS
             S: * 1 FETCH (FLAGS ())
             S: g OK …
             C: h UNSELECT
             S: h OK …",
        )
        .await;
}

/// RFC 3501 §6.3.1; IMAP4rev2 has no such code.
#[tokio::test]
async fn select_tells_rev1_where_unread_mail_begins() {
    let system = System::start().await;
    for _ in 0..3 {
        system.fake.deliver(HI);
    }
    system.fake.flag(1, 1);
    system.fake.remove(2);
    let mut client = system.connect().await;
    let select = |unseen: &str| {
        format!(
            "C: s EXAMINE INBOX
             S: * OK [CLOSED] …
             S: * FLAGS …
             S: * OK [PERMANENTFLAGS …
             S: * 2 EXISTS
             {unseen}
             S: * OK [UIDVALIDITY 7] …
             S: * OK [UIDNEXT 4] …
             S: * OK [HIGHESTMODSEQ …
             S: * OK [MAILBOXID (F1)] …
             S: s OK …"
        )
    };
    client
        .play(
            "C: l LOGIN bob secret
             S: l OK …
             C: s EXAMINE Sent
             S: * FLAGS …
             S: * OK [PERMANENTFLAGS …
             S: * 0 EXISTS
             S: * 0 RECENT
             S: * OK [UIDVALIDITY …
             S: * OK [UIDNEXT …
             S: * OK [HIGHESTMODSEQ …
             S: * OK [MAILBOXID …
             S: s OK …",
        )
        .await;
    client.play(&select("S: * 0 RECENT\n             S: * OK [UNSEEN 2] …")).await;
    system.fake.flag(3, 1);
    client.play(&select("S: * 0 RECENT")).await;
    system.fake.flag(3, 0);
    client.play("C: e ENABLE IMAP4rev2\n             S: * ENABLED IMAP4rev2\n             S: e OK …").await;
    client.play(&select("S: * LIST () \"/\" \"INBOX\"")).await;
}

#[tokio::test]
async fn fetch_items_and_sections() {
    let system = System::start().await;
    system.fake.deliver(HI);
    system.fake.deliver(PARTS);
    system.play(
        "C: a FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)
         S: * 1 FETCH (UID 1 FLAGS () INTERNALDATE \"01-Jan-1970 00:00:00 +0000\" RFC822.SIZE 96 ENVELOPE (\"Mon, 7 Feb 1994 21:52:25 -0800\" \"Hi\" ((\"Alice\" NIL \"alice\" \"sender.com\")) …))
         S: a OK …
         C: b UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])
         S: * 1 FETCH (UID 1 BODY[HEADER.FIELDS (SUBJECT)] {15}
         S: Subject: Hi
         S: 
         S: )
         S: * 2 FETCH (UID 2 BODY[HEADER.FIELDS (SUBJECT)] {18}
         S: Subject: parts
         S: 
         S: )
         S: b OK …
         C: c FETCH 2 (BODYSTRUCTURE)
         S: * 2 FETCH (BODYSTRUCTURE ((\"text\" \"plain\" …)(\"text\" \"html\" …) \"mixed\" …))
         S: c OK …
         C: d FETCH 2 (BODY[1] BINARY.PEEK[2] BINARY.SIZE[2])
         S: * 2 FETCH (BODY[1] {3}
         S: one BINARY[2] {3}
         S: <b> BINARY.SIZE[2] 3 FLAGS (\\Seen))
         S: d OK …
         C: e FETCH 2 (FLAGS BODY[9])
         S: * 2 FETCH (FLAGS (\\Seen) BODY[9] NIL)
         S: e OK …
         C: f UID FETCH 1:* (UID)
         S: * 1 FETCH (UID 1)
         S: * 2 FETCH (UID 2)
         S: f OK …
         C: g FETCH 3 FLAGS
         S: g BAD …
         C: h UID FETCH 3 FLAGS
         S: h OK …
         C: i FETCH 1:2 (FLAGS) (CHANGEDSINCE 3)
         S: * 2 FETCH (FLAGS (\\Seen) MODSEQ (4))
         S: i OK …",
    )
    .await;
}

#[tokio::test]
async fn store_is_told_once() {
    let system = System::start().await;
    system.fake.deliver(HI);
    system.fake.deliver(HI);
    let mut client = system.selected().await;
    client
        .play(
            "C: a STORE 1 +FLAGS (\\Seen $Label)
             S: * FLAGS (…$Label)
             S: * OK [PERMANENTFLAGS …] …
             S: * 1 FETCH (FLAGS (\\Seen $Label))
             S: a OK …
             C: b NOOP
             S: b OK …
             C: c UID STORE 2 FLAGS.SILENT (\\Draft)
             S: c OK …
             C: d NOOP
             S: d OK …
             C: e UID STORE 1:2 (UNCHANGEDSINCE 4) +FLAGS.SILENT (\\Flagged)
             S: * 1 FETCH (UID 1 MODSEQ (6))
             S: e OK [MODIFIED 2] …
             C: f STORE 1:2 (UNCHANGEDSINCE 1) +FLAGS (\\Flagged)
             S: f OK [MODIFIED 1:2] …",
        )
        .await;
}

#[tokio::test]
async fn copy_move_expunge() {
    let system = System::start().await;
    for _ in 0..5 {
        system.fake.deliver(HI);
    }
    system
        .play(
            "C: a COPY 1:2 Sent
             S: a OK [COPYUID 7 1:2 1:2] …
             C: b COPY 1 nowhere
             S: b NO [TRYCREATE] …
             C: c UID MOVE 2 Trash
             S: * OK [COPYUID 7 2 1] …
             S: * 2 EXPUNGE
             S: c OK …
             C: d STORE 1,3 +FLAGS.SILENT (\\Deleted)
             S: d OK …
             C: e UID EXPUNGE 2:4
             S: * 3 EXPUNGE
             S: e OK …
             C: f UID EXPUNGE 77
             S: f OK …
             C: g EXPUNGE
             S: * 1 EXPUNGE
             S: g OK …
             C: h UID SEARCH ALL
             S: * SEARCH 3 5
             S: h OK …
             C: i STORE 1 +FLAGS.SILENT (\\Deleted)
             S: i OK …
             C: j CLOSE
             S: j OK …
             C: k STATUS INBOX (MESSAGES)
             S: * STATUS \"INBOX\" (MESSAGES 1)
             S: k OK …",
        )
        .await;
}

#[tokio::test]
async fn search_in_all_its_forms() {
    let system = System::start().await;
    system.fake.deliver(HI);
    system.fake.deliver(PARTS);
    system.fake.deliver(HI);
    system
        .play(
            "C: a SEARCH SUBJECT hi
             S: * SEARCH 1 3
             S: a OK …
             C: b UID SEARCH BODY <B>
             S: * SEARCH 2
             S: b OK …
             C: c SEARCH FROM nobody
             S: * SEARCH
             S: c OK …
             C: d UID SEARCH RETURN (MIN MAX COUNT ALL) NOT SEEN
             S: * ESEARCH (TAG \"d\") UID MIN 1 MAX 3 ALL 1:3 COUNT 3
             S: d OK …
             C: e SEARCH CHARSET X-NOBODY TEXT x
             S: e NO [BADCHARSET (US-ASCII UTF-8)] …
             C: f SEARCH RETURN (SAVE) SUBJECT parts
             S: f OK …
             C: g UID FETCH $ FLAGS
             S: * 2 FETCH (UID 2 FLAGS ())
             S: g OK …
             C: h SEARCH 4
             S: h BAD …
             C: i SEARCH MODSEQ 4
             S: * SEARCH 3 (MODSEQ 4)
             S: i OK …",
        )
        .await;
}

#[tokio::test]
async fn append_comes_back_byte_for_byte() {
    let system = System::start().await;
    let mut client = system.selected().await;
    let mut raw = b"Subject: \xe4\xff\r\n\r\nbare \n and \r and \x00 and\r\n.\r\n{5}\r\n".to_vec();
    raw.extend((0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8));
    client.send(&format!("a APPEND INBOX (\\Seen $x) \"01-Jan-1970 00:00:01 +0000\" {{{}}}", raw.len())).await;
    client.play("S: + …").await;
    client.raw(&raw).await;
    client.play("C: \nS: * 1 EXISTS\nS: * 0 RECENT\nS: a OK [APPENDUID 7 1] …").await;
    client.send("b FETCH 1 (FLAGS INTERNALDATE BODY.PEEK[])").await;
    let head =
        format!("* 1 FETCH (FLAGS (\\Seen $x) INTERNALDATE \"01-Jan-1970 00:00:01 +0000\" BODY[] {{{}}}", raw.len());
    assert_eq!(client.line().await, head);
    assert!(client.exactly(raw.len()).await == raw, "not the same bytes");
    client.play("S: )\nS: b OK …").await;
    client
        .play(
            "C: c APPEND nowhere {5}
             S: c NO [TRYCREATE] …
             C: d APPEND INBOX {2147483648}
             S: d NO [TOOBIG] …
             C: e APPEND Sent {3+}
             C: x:
             S: e OK [APPENDUID 7 1] …",
        )
        .await;
}

#[tokio::test]
async fn half_a_message_is_no_message() {
    let system = System::start().await;
    let mut client = system.selected().await;
    client.play("C: a APPEND INBOX {1000000}\nS: + …").await;
    client.raw(&[b'x'; 500_000]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(client);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(system.fake.appended.load(Ordering::Relaxed), 0);
    system.selected().await.play("C: a SEARCH ALL\nS: * SEARCH\nS: a OK …").await;
}

#[tokio::test]
async fn others_changes_are_told() {
    let system = System::start().await;
    for _ in 0..3 {
        system.fake.deliver(HI);
    }
    let mut client = system.selected().await;
    system.fake.flag(1, 1);
    system.fake.remove(2);
    system.fake.deliver(HI);
    client
        .play(
            "C: a NOOP
             S: * 2 EXPUNGE
             S: * 3 EXISTS
             S: * 0 RECENT
             S: * 1 FETCH (UID 1 FLAGS (\\Seen))
             S: a OK …
             C: b NOOP
             S: b OK …",
        )
        .await;
    // No EXPUNGE while sequence numbers are in use, but EXISTS for "n:*".
    tokio::time::sleep(Duration::from_millis(1100)).await;
    system.fake.remove(1);
    system.fake.deliver(HI);
    client
        .play(
            "C: c SEARCH ALL
             S: * 4 EXISTS
             S: * 0 RECENT
             S: * SEARCH 1 2 3 4
             S: c OK …
             C: d UID FETCH 5:* FLAGS
             S: * 4 FETCH (UID 5 FLAGS ())
             S: * 1 EXPUNGE
             S: d OK …",
        )
        .await;
}

#[tokio::test]
async fn idle_wakes() {
    let system = System::start().await;
    system.fake.deliver(HI);
    let mut client = system.selected().await;
    client.play("C: a IDLE\nS: + idling").await;
    system.fake.deliver(HI);
    client.play("S: * 2 EXISTS\nS: * 0 RECENT").await;
    system.fake.flag(1, 4);
    client.play("S: * 1 FETCH (UID 1 FLAGS (\\Flagged))").await;
    system.fake.remove(1);
    client.play("S: * 1 EXPUNGE\nC: DONE\nS: a OK …").await;
    client.play("C: b IDLE\nS: + idling\nC: nonsense\nS: b BAD …").await;
}

#[tokio::test]
async fn an_mda_without_database_is_unavailable_and_comes_back() {
    let system = System::start().await;
    system.fake.deliver(HI);
    let mut client = system.selected().await;
    system.fake.down.store(true, Ordering::Relaxed);
    client
        .play(
            "C: a FETCH 1 FLAGS
             S: a NO [UNAVAILABLE] …
             C: b STATUS INBOX (MESSAGES)
             S: b NO [UNAVAILABLE] …
             C: c NOOP
             S: c OK …
             C: d APPEND INBOX {3+}
             C: x:
             S: d NO [UNAVAILABLE] …
             C: e STORE 1 +FLAGS (\\Seen)
             S: e NO [UNAVAILABLE] …",
        )
        .await;
    system.connect().await.play("C: a LOGIN bob secret\nS: a NO [UNAVAILABLE] …").await;
    system.fake.down.store(false, Ordering::Relaxed);
    client.play("C: f FETCH 1 FLAGS\nS: * 1 FETCH (FLAGS ())\nS: f OK …").await;
}

#[tokio::test]
async fn rev2_speaks_utf8_and_esearch() {
    let system = System::start().await;
    system
        .selected()
        .await
        .play(
            "C: a ENABLE IMAP4rev2 X-NONE CONDSTORE
             S: * ENABLED IMAP4rev2 CONDSTORE
             S: a OK …
             C: b CREATE \"Entwürfe\"
             S: b OK …
             C: c LIST \"\" \"E*\"
             S: * LIST (\\HasNoChildren) \"/\" \"Entwürfe\"
             S: c OK …
             C: d SEARCH ALL
             S: * ESEARCH (TAG \"d\")
             S: d OK …
             C: e SELECT Sent
             S: * OK [CLOSED] …
             S: * FLAGS …
             S: * OK [PERMANENTFLAGS …] …
             S: * 0 EXISTS
             S: * LIST () \"/\" \"Sent\"
             S: * OK …
             S: * OK …
             S: * OK …
             S: * OK [MAILBOXID (F2)] …
             S: e OK …",
        )
        .await;
}
