//! Rules of accounts, seen from outside: two sites, real clients, the command line.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::{
    client::python,
    eventually,
    site::{Options, Site, free_port_offset},
    sites::Sites,
};

const SOON: Duration = Duration::from_secs(60);

async fn sites() -> Sites {
    Sites::up(free_port_offset(&Sites::HOSTS), |options| options).await
}

/// Alice submits to bob; boxes are read until they have so many messages.
const HELP: &str = r#"
def submit(subject, recipient="bob@example.com", body="hello", header=""):
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
    smtp.login("alice@sender.com", "secret")
    smtp.mail("alice@sender.com"); code, text = smtp.rcpt(recipient)
    assert code == 250, (code, text)
    code, text = smtp.data(f"From: alice@sender.com\r\nTo: {recipient}\r\nSubject: {subject}\r\n"
                           f"Message-ID: <{subject.replace(' ', '.')}@sender.com>\r\n{header}\r\n{body}\r\n".encode())
    assert code == 250, (code, text)
    smtp.quit()
    print(text.split()[-1].decode())
def box(user, name="INBOX", count=1):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
    imap.login(user, "secret")
    for _ in range(1800):
        kind, data = imap.select(name)
        if kind == "OK" and int(data[0]) >= count:
            found = imap.fetch("1:*", "(FLAGS BODY.PEEK[])")[1]
            return [(part[0], email.message_from_bytes(part[1]), found[2 * n + 1]) for n, part in enumerate(found[::2])]
        time.sleep(0.1)
    raise SystemExit(f"{name} of {user} has {data}")
"#;

/// Stores and activates bob's script.
fn script(sites: &Sites, text: &str) {
    sites.example.admin(&["sieve", "put", "bob@example.com", "main", "--activate"], text);
}

fn submit(sites: &Sites, arguments: &str) -> String {
    python(&sites.sender, &format!("{HELP}submit({arguments})")).trim().to_owned()
}

fn at_example(sites: &Sites, program: &str) -> String {
    python(&sites.example, &format!("{HELP}{program}"))
}

fn at_sender(sites: &Sites, program: &str) -> String {
    python(&sites.sender, &format!("{HELP}{program}"))
}

/// The journey at example.com of a message that sender.com relayed, as soon as it has the words.
async fn journey(sites: &Sites, message_id: &str, words: &str) -> String {
    eventually(&format!("the journey of {message_id} has {words:?}"), SOON, || async {
        let output = sites.example.try_cli("trace", &[message_id], "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains(words).then_some(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_files_flags_and_discards() {
    let sites = sites().await;
    script(
        &sites,
        r#"require ["fileinto", "mailbox", "imap4flags", "body", "variables", "envelope", "subaddress"];
        if header :contains "subject" "spam" { discard; stop; }
        if envelope :detail "to" "lists" { fileinto :create "Lists/All"; stop; }
        if header :matches "subject" "[*] *" { fileinto :create :flags ["\\Flagged", "$Work"] "Projects/${1}"; }
        elsif body :text :contains "invoice" { addflag "\\Seen"; keep; fileinto "Archive"; }"#,
    );
    let ids: Vec<String> = [
        r#""[apollo] launch""#,
        r#""a bill", body="your invoice""#,
        r#""spam spam""#,
        r#""news", "bob+lists@example.com""#,
    ]
    .map(|arguments| submit(&sites, arguments))
    .into();
    assert_eq!(ids.len(), 4);
    at_example(
        &sites,
        r#"
(one,) = box("bob@example.com", "Projects/apollo")
assert b"\\Flagged" in one[0] + one[2] and b"$Work" in one[0] + one[2], one
assert one[1]["Subject"] == "[apollo] launch"
(kept,) = box("bob@example.com"); (filed,) = box("bob@example.com", "Archive")
assert kept[1]["Subject"] == "a bill" and filed[1].as_bytes() == kept[1].as_bytes()
assert b"\\Seen" in kept[0] + kept[2], kept
box("bob@example.com", "Lists/All")
"#,
    );
    let seen = journey(&sites, "[apollo].launch@sender.com", "into Projects/apollo").await;
    assert!(seen.contains("delivered"), "{seen}");
    journey(&sites, "spam.spam@sender.com", "discarded").await;
    // Nothing is left behind in the queue.
    assert!(!sites.example.cli("queue", &["list"], "").contains("bob@"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacation_is_answered_once_and_a_list_never() {
    let sites = sites().await;
    sites.example.admin(&["vacation", "on", "bob@example.com", "--text", "I am away", "--subject", "Grüße"], "");
    submit(&sites, r#""first""#);
    submit(&sites, r#""from a list", header="List-Id: <l.sender.com>\r\n""#);
    at_sender(
        &sites,
        r#"
(reply,) = box("alice@sender.com")
message = reply[1]
assert message["Auto-Submitted"] == "auto-replied" and message["In-Reply-To"] == "<first@sender.com>", message
assert message["From"] == "<bob@example.com>" and message["Return-Path"] in (None, "<>"), message
assert "I am away" in message.get_payload(), message
assert "dkim=pass" in message["Authentication-Results"], message
"#,
    );
    let told = journey(&sites, "first@sender.com", "answered to alice@sender.com").await;
    assert!(told.contains("into INBOX"), "{told}");
    journey(&sites, "from.a.list@sender.com", "not answered: it came over a mailing list").await;
    submit(&sites, r#""second""#);
    journey(&sites, "second@sender.com", "answered before").await;
    sites.example.admin(&["vacation", "off", "bob@example.com"], "");
    submit(&sites, r#""third""#);
    let third = journey(&sites, "third@sender.com", "into INBOX").await;
    assert!(!third.contains("answered"), "{third}");
    at_example(&sites, r#"assert len(box("bob@example.com", count=4)) == 4"#);
    at_sender(&sites, r#"assert len(box("alice@sender.com")) == 1"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_mail_arrives_elsewhere_and_circles_end() {
    let sites = sites().await;
    sites.sender.account("carol@sender.com");
    script(
        &sites,
        r#"require "copy"; if header :contains "subject" "copy" { redirect :copy "carol@sender.com"; } else { redirect "carol@sender.com"; }"#,
    );
    submit(&sites, r#""away with it""#);
    at_sender(
        &sites,
        r#"
(there,) = box("carol@sender.com")
assert there[1]["Subject"] == "away with it" and there[1]["Delivered-To"] == "bob@example.com", there
assert "dkim=pass" in there[1].get_all("Authentication-Results")[0], there
"#,
    );
    let told = journey(&sites, "away.with.it@sender.com", "redirected").await;
    assert!(told.contains("to carol@sender.com as "), "{told}");
    submit(&sites, r#""a copy""#);
    at_sender(&sites, r#"assert len(box("carol@sender.com", count=2)) == 2"#);
    at_example(&sites, r#"assert len(box("bob@example.com")) == 1"#);
    // Carol sends it back: it stays where it was before.
    sites.sender.admin(&["forward", "set", "carol@sender.com", "bob@example.com"], "");
    submit(&sites, r#""in a circle""#);
    at_example(
        &sites,
        r#"
circle = box("bob@example.com", count=2)[1][1]
assert circle["Subject"] == "in a circle", circle
assert circle.get_all("Delivered-To") == ["carol@sender.com", "bob@example.com"], circle
"#,
    );
    // The message at example.com was there twice; the later one stayed.
    let found = eventually("the circle ends in the journey", SOON, || async {
        let found = sites.example.try_cli("trace", &["in.a.circle@sender.com"], "");
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        text.contains("redirected here before").then_some(text)
    });
    found.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_message_comes_back_and_a_failed_script_keeps() {
    let sites = sites().await;
    script(
        &sites,
        r#"require ["reject", "variables", "fileinto"];
        if header :contains "subject" "no" { reject "I do not take mail like this"; }
        if header :contains "subject" "broken" { redirect "${none}"; fileinto "Archive"; }
        if header :contains "subject" "elsewhere" { fileinto "Missing"; }"#,
    );
    submit(&sites, r#""no thanks""#);
    at_sender(
        &sites,
        r#"
(dsn,) = box("alice@sender.com")
report = dsn[1]
assert report.get_content_type() == "multipart/report", report
fields = report.get_payload()[1].get_payload()[1]
assert fields["Action"] == "failed" and fields["Status"] == "5.7.1", fields
assert "dkim=pass" in report["Authentication-Results"], report
assert "I do not take mail like this" in fields["Diagnostic-Code"].replace("\r\n", ""), fields
"#,
    );
    journey(&sites, "no.thanks@sender.com", "rejected by the recipient").await;
    submit(&sites, r#""broken""#);
    submit(&sites, r#""elsewhere""#);
    at_example(&sites, r#"assert len(box("bob@example.com", count=2)) == 2"#);
    journey(&sites, "broken@sender.com", "is no address to redirect to").await;
    journey(&sites, "elsewhere@sender.com", "does not exist").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_checks_and_keeps_scripts() {
    let sites = sites().await;
    let site = &sites.example;
    let bob = "bob@example.com";
    let refused = site.try_cli("admin", &["sieve", "put", bob, "bad"], "keep;\nfileinto \"x\";");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("line 2, column 1"), "{error}");
    assert!(site.admin(&["sieve", "check"], "keep;").contains("in order"));
    site.admin(&["sieve", "put", bob, "one", "--activate"], "keep;\n");
    site.admin(&["sieve", "put", bob, "two"], "discard;\n");
    assert!(site.admin(&["sieve", "list", bob], "").contains("one  6 bytes  active"));
    assert_eq!(site.admin(&["sieve", "get", bob, "two"], ""), "discard;\n");
    let active = site.try_cli("admin", &["sieve", "remove", bob, "one"], "");
    assert!(!active.status.success());
    site.admin(&["sieve", "rename", bob, "one", "uno"], "");
    assert!(site.admin(&["sieve", "list", bob], "").contains("uno  6 bytes  active"));
    site.admin(&["sieve", "deactivate", bob], "");
    site.admin(&["sieve", "remove", bob, "uno"], "");
    assert!(!site.try_cli("admin", &["sieve", "activate", bob, "uno"], "").status.success());
    assert!(site.admin(&["forward", "set", bob, "x@else.org", "--keep"], "").contains("-> x@else.org, and kept"));
    assert!(!site.try_cli("admin", &["forward", "set", bob, bob], "").status.success());
    assert!(site.admin(&["forward", "off", bob], "").contains("is not forwarded"));
    let on = ["vacation", "on", bob, "--text", "x", "--from", "2026-12-24", "--until", "2027-01-02"];
    assert!(site.admin(&on, "").contains("from 2026-12-24T00:00:00.000Z until 2027-01-02"));
    assert!(site.admin(&["vacation", "off", bob], "").contains("answers nobody"));
    let shown: serde_json::Value = serde_json::from_str(&site.admin(&["--json", "vacation", "show", bob], "")).unwrap();
    assert_eq!((shown["on"].as_bool(), shown["text"].as_str()), (Some(false), Some("x")));
}

/// RFC 5804 with a client of its own: `managesieve` of PyPI knows SASL PLAIN and STARTTLS.
#[tokio::test(flavor = "multi_thread")]
async fn managesieve_clients_store_scripts_that_are_run() {
    let sites = sites().await;
    let interpreter = tests::client::venv(&["managesieve==0.8.1"]);
    let program = r#"
def read(f):
    line = f.readline().decode().rstrip("\r\n")
    return line
import base64
raw = socket.create_connection((HOST, PORT[4190]))
f = raw.makefile("rb")
greeting = []
while not (greeting and greeting[-1].startswith("OK")): greeting.append(read(f))
announced = [g for g in greeting if g.startswith('"SIEVE"')][0]
for extension in ("fileinto", "vacation", "variables", "imap4flags", "duplicate", "date", "comparator-i;ascii-numeric"):
    assert extension in announced, announced
assert '"STARTTLS"' in greeting and '"SASL" ""' in greeting, greeting
raw.close()

import os, managesieve
os.environ["SSL_CERT_FILE"] = CA
m = managesieve.MANAGESIEVE(HOST, PORT[4190], use_tls=True)
assert m.login("", "bob@example.com", "secret") == "OK", m.response_text
assert "PLAIN" in m.loginmechs, m.loginmechs
assert m.havespace("main", 100) == "OK"
assert m.putscript("main", 'require "fileinto"; fileinto "Archive";\r\n') == "OK", m.response_text
assert m.putscript("bad", "fileinto 5;") == "NO"
text = m.response_text
text = text.decode() if isinstance(text, bytes) else text
assert "line 1, column" in text, text
assert m.setactive("main") == "OK"
kind, scripts = m.listscripts()
assert kind == "OK" and [(s if isinstance(s, str) else s.decode(), bool(a)) for s, a in scripts] == [("main", True)], scripts
kind, script = m.getscript("main")
assert kind == "OK" and "Archive" in (script if isinstance(script, str) else script.decode()), script
assert m.deletescript("main") == "NO"
m.logout()
"#;
    tests::client::python_of(&interpreter, &sites.example, program);
    submit(&sites, r#""by managesieve""#);
    at_example(&sites, r#"box("bob@example.com", "Archive")"#);
}

/// Invariants 1, 3 and 6 with rules: what was accepted is filed once and sent on once.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_mda_neither_lose_nor_double_what_rules_do() {
    let site = Site::up(Options::new("127.0.0.4", free_port_offset(&["127.0.0.4"]), "example.com"));
    site.account("bob@example.com");
    site.account("carol@example.com");
    let rules = r#"require ["fileinto", "copy"]; redirect :copy "carol@example.com"; fileinto "Archive";"#;
    site.admin(&["sieve", "put", "bob@example.com", "main", "--activate"], rules);
    // Each is tried until it is accepted; what was answered 451 or not at all may be there as well.
    let send = r#"
accepted = unsure = 0
while accepted < 60:
    begun = False
    try:
        smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS, timeout=20)
        smtp.login("bob@example.com", "secret")
        while accepted < 60:
            if smtp.mail("bob@example.com")[0] != 250 or smtp.rcpt("bob@example.com")[0] != 250: break
            begun = True
            code = smtp.data(f"From: bob@example.com\r\nSubject: {accepted}\r\n\r\nx\r\n".encode())[0]
            begun = False
            accepted += code == 250
            unsure += code == 451
            time.sleep(0.1)
    except (smtplib.SMTPException, OSError):
        unsure += begun
        time.sleep(0.2)
print(accepted, unsure)
"#;
    let printed = std::thread::scope(|scope| {
        let sender = scope.spawn(|| python(&site, send));
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(1_500));
            site.signal("mda", "KILL");
        }
        sender.join().unwrap()
    });
    let numbers: Vec<usize> = printed.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [accepted, unsure] = numbers[..] else { panic!("{printed}") };
    eventually("nothing is left to do", SOON * 2, || async {
        let left = site.try_cli("queue", &["list"], "");
        (left.status.success() && !String::from_utf8_lossy(&left.stdout).contains("@example.com")).then_some(())
    })
    .await;
    let check = r#"
def count(user, name):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
    imap.login(user, "secret")
    return int(imap.select(name)[1][0])
print(count("bob@example.com", "Archive"), count("carol@example.com", "INBOX"), count("bob@example.com", "INBOX"))
"#;
    let counts: Vec<usize> = python(&site, check).split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [filed, sent_on, kept] = counts[..] else { panic!("{counts:?}") };
    assert!((accepted..=accepted + unsure).contains(&filed), "{filed} of {accepted} and {unsure} unsure");
    assert_eq!((sent_on, kept), (filed, 0));
}
