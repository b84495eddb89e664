//! Mailboxes of others (RFC 4314): what rights allow, at the gateway and at mda itself; and what
//! clients in Python see of NOTIFY, CATENATE and COMPRESS.

#![allow(clippy::unwrap_used)]

use tests::{
    client::python,
    imap::Imap,
    site::{Options, Site, free_port_offset},
};

fn site() -> Site {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com")
        .more(&["--replicas", "imap-gateway=2"]);
    options.config = Some("imap-gateway:\n  allow_cleartext_login: true\n".into());
    let site = Site::up(options);
    for account in ["alice@example.com", "bob@example.com", "eve@example.com"] {
        site.account(account);
    }
    site
}

async fn login(site: &Site, name: &str) -> Imap {
    Imap::login(site.host(), site.port(143), &format!("{name}@example.com")).await
}

/// The untagged lines of a command that must succeed.
async fn told(imap: &mut Imap, command: &str) -> Vec<String> {
    imap.send(&format!("q {command}\r\n")).await;
    let mut lines = Vec::new();
    loop {
        let line = imap.line().await;
        if let Some(answer) = line.strip_prefix("q ") {
            assert!(answer.starts_with("OK"), "{command}: {answer}");
            return lines;
        }
        lines.push(line);
    }
}

const WORK: &str = "\"Other Users/alice@example.com/Work\"";

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_what_the_owner_gave() {
    let site = site();
    let (mut alice, mut bob, mut eve) =
        (login(&site, "alice").await, login(&site, "bob").await, login(&site, "eve").await);
    alice.ok("CREATE Work").await;
    alice.ok("APPEND Work {14+}\r\nSubject: a\r\n\r\n").await;
    // Nothing is shared yet: nobody hears of it.
    assert!(told(&mut bob, "LIST \"\" \"Other Users/*\"").await.is_empty());
    assert!(bob.run(&format!("SELECT {WORK}")).await.starts_with("NO [NONEXISTENT]"));
    assert!(bob.run("SETACL INBOX nobody@example.com lr").await.starts_with("NO [NONEXISTENT]"));

    alice.ok("SETACL Work bob@example.com lr").await;
    let listed = told(&mut bob, "LIST \"\" \"*\"").await;
    assert!(listed.iter().any(|l| l.ends_with("\"Other Users/alice@example.com/Work\"")), "{listed:?}");
    assert!(!told(&mut eve, "LIST \"\" \"*\"").await.iter().any(|l| l.contains("alice")));
    assert!(eve.run(&format!("SELECT {WORK}")).await.starts_with("NO"));
    let selected = bob.ok(&format!("SELECT {WORK}")).await;
    assert!(selected.contains("READ-ONLY"), "nothing may be changed: {selected}");
    assert!(told(&mut bob, "FETCH 1 (FLAGS BODY[])").await.iter().any(|l| l == "Subject: a"));
    assert!(bob.run("STORE 1 +FLAGS (\\Seen)").await.starts_with("NO"));
    assert!(bob.run(&format!("APPEND {WORK} {{4+}}\r\nA: b")).await.starts_with("NO [NOPERM]"));
    assert!(bob.run(&format!("DELETE {WORK}")).await.starts_with("NO [NOPERM]"));
    assert!(bob.run(&format!("GETACL {WORK}")).await.starts_with("NO [NOPERM]"));
    assert!(bob.run(&format!("SETACL {WORK} bob@example.com lrswite")).await.starts_with("NO [NOPERM]"));
    assert!(told(&mut bob, &format!("MYRIGHTS {WORK}")).await[0].ends_with(" lr"));
    // A copy is one's own.
    bob.ok("COPY 1 INBOX").await;
    assert!(told(&mut bob, "STATUS INBOX (MESSAGES)").await[0].contains("MESSAGES 1"));

    alice.ok("SETACL Work bob@example.com +swi").await;
    assert!(bob.ok(&format!("SELECT {WORK}")).await.contains("READ-WRITE"));
    bob.view = vec![1];
    bob.ok("STORE 1 +FLAGS (\\Seen \\Flagged \\Deleted)").await;
    alice.select("Work").await;
    assert_eq!(
        alice.flags[&1].iter().map(String::as_str).collect::<Vec<_>>(),
        ["\\Flagged", "\\Seen"],
        "\\Deleted needs t"
    );
    assert!(bob.run("EXPUNGE").await.starts_with("NO [NOPERM]"));
    bob.ok(&format!("APPEND {WORK} (\\Deleted kw) {{4+}}\r\nA: b")).await;
    alice.sync().await;
    assert_eq!(alice.flags[&2].iter().map(String::as_str).collect::<Vec<_>>(), ["kw"]);
    assert!(bob.run("MOVE 1 INBOX").await.starts_with("NO [NOPERM]"));
    alice.ok("SETACL Work bob@example.com +tek").await;
    bob.ok("MOVE 1 INBOX").await;
    assert!(told(&mut bob, "STATUS INBOX (MESSAGES)").await[0].contains("MESSAGES 2"));
    alice.sync().await;
    assert_eq!(alice.view, [2]);

    // What is made below it has its rights; what is made beside it is not allowed.
    bob.ok("CREATE \"Other Users/alice@example.com/Work/Sub\"").await;
    assert!(told(&mut alice, "GETACL Work/Sub").await[0].contains("bob@example.com lrswiktecd"));
    assert!(bob.run("CREATE \"Other Users/alice@example.com/Else\"").await.starts_with("NO"));
    assert!(bob.run(&format!("RENAME {WORK} Mine")).await.starts_with("NO"));
    bob.ok(&format!("SUBSCRIBE {WORK}")).await;
    assert!(told(&mut bob, "LSUB \"\" \"*\"").await.iter().any(|l| l.contains("alice@example.com/Work\"")));

    // Anyone means all of the tenant; what is taken back is gone at once.
    alice.ok("SETACL Work anyone l").await;
    assert!(told(&mut eve, "LIST \"\" \"*\"").await.iter().any(|l| l.contains("alice@example.com/Work\"")));
    assert!(eve.run(&format!("STATUS {WORK} (MESSAGES)")).await.starts_with("NO [NOPERM]"));
    alice.ok("DELETEACL Work bob@example.com").await;
    assert!(bob.run("UID FETCH 1:* (FLAGS)").await.starts_with("NO"), "the selected mailbox is not readable any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_a_shared_mailbox_reach_both_sides() {
    let site = site();
    let (mut alice, mut bob) = (login(&site, "alice").await, login(&site, "bob").await);
    alice.ok("SETACL INBOX bob@example.com lrswite").await;
    bob.ok("SELECT \"Other Users/alice@example.com/INBOX\"").await;
    bob.send("i IDLE\r\n").await;
    while !bob.line().await.starts_with('+') {}
    alice.ok("APPEND INBOX {4+}\r\nA: b").await;
    while bob.line().await != "* 1 EXISTS" {}
    alice.ok("NOTIFY SET (inboxes (MessageNew MessageExpunge FlagChange))").await;
    bob.send("DONE\r\n").await;
    while !bob.line().await.starts_with("i OK") {}
    bob.view = vec![0];
    bob.ok("STORE 1 +FLAGS (\\Seen)").await;
    let line = alice.line().await;
    assert!(line.starts_with("* STATUS \"INBOX\" (MESSAGES 1") && line.contains("UNSEEN 0"), "{line}");
}

#[test]
fn catenate_and_compress_with_imaplib() {
    let site = site();
    let program = r#"
import zlib
class Deflated(imaplib.IMAP4_SSL):
    "imaplib after COMPRESS DEFLATE (RFC 4978)."
    def compress(self):
        assert self._simple_command("COMPRESS", "DEFLATE")[0] == "OK"
        self.packer, self.unpacker, self.plain = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.decompressobj(-15), b""
        self.received = 0
    def more(self):
        packed = self.sock.recv(65536)
        assert packed
        self.received += len(packed)
        self.plain += self.unpacker.decompress(packed)
    def read(self, size):
        while len(self.plain) < size: self.more()
        out, self.plain = self.plain[:size], self.plain[size:]
        return out
    def readline(self):
        if not hasattr(self, "packer"): return super().readline()
        while b"\n" not in self.plain: self.more()
        line, _, self.plain = self.plain.partition(b"\n")
        return line + b"\n"
    def send(self, data):
        if hasattr(self, "packer"): data = self.packer.compress(data) + self.packer.flush(zlib.Z_SYNC_FLUSH)
        self.sock.sendall(data)
imaplib.Commands["COMPRESS"] = ("AUTH", "SELECTED")
class Client(Deflated):
    def read(self, size):
        return Deflated.read(self, size) if hasattr(self, "packer") else imaplib.IMAP4_SSL.read(self, size)
imap = Client(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
assert "COMPRESS=DEFLATE" in imap.capability()[1][0].decode().split()
imap.compress()
assert "COMPRESS=DEFLATE" not in imap.capability()[1][0].decode().split()
body = b"Subject: large\r\n\r\n" + b"the same words again and again\r\n" * 100000
assert imap.append("INBOX", None, None, body)[0] == "OK"
imap.select("INBOX")
before = imap.received
assert imap.fetch("1", "(BODY.PEEK[])")[1][0][1] == body
assert imap.received - before < len(body) // 20, imap.received - before
# A draft that goes on where an older one ended.
imap.literal = None
typ, data = imap._simple_command("APPEND", "Drafts", 'CATENATE (URL "/INBOX/;UID=1/;SECTION=HEADER" URL "/INBOX/;UID=1/;SECTION=TEXT/;PARTIAL=0.32")')
assert typ == "OK", data
imap.select("Drafts")
assert imap.fetch("1", "(BODY.PEEK[])")[1][0][1] == b"Subject: large\r\n\r\nthe same words again and again\r\n"
assert imap._simple_command("COMPRESS", "DEFLATE")[0] == "NO"
imap.logout()
"#;
    python(&site, program);
}
