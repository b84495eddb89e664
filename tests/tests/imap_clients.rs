//! Clients that keep whole mailboxes: IMAPClient, offlineimap, getmail, mbsync with much mail.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tests::{
    client::python,
    process::{is_root, program},
    site::{Options, Site, free_port_offset},
};

fn site() -> Site {
    let site = Site::up(
        Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com")
            .more(&["--replicas", "imap-gateway=2"]),
    );
    site.account("bob@example.com");
    site
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// A Python with IMAPClient, made once for this machine.
fn python_with_imapclient() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let home = cache.unwrap_or_else(std::env::temp_dir).join("postroad/imapclient-3.0.1");
    let python = home.join("bin/python");
    let has_it = |python: &Path| {
        Command::new(python).args(["-c", "import imapclient"]).output().is_ok_and(|o| o.status.success())
    };
    if !has_it(&python) {
        run(Command::new(program("python3", "python3")).args(["-m", "venv", "--clear"]).arg(&home));
        run(Command::new(home.join("bin/pip")).args(["install", "-q", "IMAPClient==3.0.1"]));
    }
    assert!(has_it(&python), "IMAPClient is not there");
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn imapclient_uses_what_is_offered() {
    let site = site();
    let program = format!(
        r#"
import ssl, threading, time
from datetime import datetime
from imapclient import IMAPClient
tls = ssl.create_default_context(cafile={ca:?}); tls.check_hostname = False
def client():
    c = IMAPClient("127.0.0.1", {port}, ssl_context=tls)
    c.login("bob@example.com", "secret")
    return c
c = client()
for wanted in (b"QRESYNC", b"SORT", b"THREAD=REFERENCES", b"QUOTA", b"MULTIAPPEND", b"UIDPLUS", b"MOVE", b"SPECIAL-USE"):
    assert c.has_capability(wanted.decode()), wanted
assert c.find_special_folder(b"\\Sent") == "Sent"
c.create_folder("Entwürfe/März")
assert "Entwürfe/März" in [name for _, _, name in c.list_folders()]
def mail(n, more=""):
    return (f"From: A{{n % 3}} <a{{n % 3}}@x.example>\r\nSubject: {{'Re: ' if n % 2 else ''}}topic {{n // 2}}\r\n"
            f"Message-ID: <{{n}}@x>\r\n{{more}}Date: Mon, {{n + 1}} Jan 2024 10:00:00 +0000\r\n\r\nbody {{n}}\r\n").encode()
for n in range(6):
    c.append("INBOX", mail(n, f"References: <{{n - 1}}@x>\r\n" if n % 2 else ""), flags=[b"\\Flagged"] if n == 2 else [], msg_time=datetime(2024, 1, 1 + n))
c.multiappend("Entwürfe/März", [mail(9), mail(10)])
assert c.folder_status("Entwürfe/März", ["MESSAGES"])[b"MESSAGES"] == 2
info = c.select_folder("INBOX")
assert info[b"EXISTS"] == 6 and info[b"UIDNEXT"] == 7 and info[b"UNSEEN"] == [b"1"], info
assert c.search(["SUBJECT", "topic 1"]) == [3, 4]
assert c.sort(["REVERSE DATE"]) == [6, 5, 4, 3, 2, 1]
assert c.sort(["SUBJECT", "REVERSE ARRIVAL"]) == [2, 1, 4, 3, 6, 5]
assert c.thread("REFERENCES") == ((1, 2), (3, 4), (5, 6)), c.thread("REFERENCES")
got = c.fetch([3, 4], ["ENVELOPE", "FLAGS", "INTERNALDATE", "BODYSTRUCTURE", "BODY.PEEK[HEADER.FIELDS (SUBJECT)]", "RFC822.SIZE"])
assert got[3][b"ENVELOPE"].subject == b"topic 1" and b"\\Flagged" in got[3][b"FLAGS"], got
assert got[4][b"INTERNALDATE"].day == 4 and got[3][b"BODYSTRUCTURE"][0] == b"text"
assert c.get_quota_root("INBOX")[0].quota_roots == [""], c.get_quota_root("INBOX")
start = time.time()
events = []
other = client()
other.select_folder("INBOX")
other.idle()
c.set_flags([1], [b"\\Seen", b"Work"])
told = other.idle_check(timeout=60)
other.idle_done()
assert any(line[1] == b"FETCH" and b"Work" in line[2][3] for line in told), told
c.add_flags([1], [b"\\Deleted"]); c.uid_expunge([1])
c.move([2], "Entwürfe/März")
assert c.folder_status("Entwürfe/März", ["MESSAGES"])[b"MESSAGES"] == 3
assert other.noop()[1] and other.search() == [3, 4, 5, 6]
c.rename_folder("Entwürfe", "Drafts2")
assert c.folder_exists("Drafts2/März")
c.delete_folder("Drafts2/März"); c.unsubscribe_folder("Drafts2")
c.logout(); other.logout()
"#,
        ca = site.ca().display().to_string(),
        port = site.port(993),
    );
    let file = site.data().join("session.py");
    std::fs::write(&file, program).unwrap();
    run(Command::new(python_with_imapclient()).arg(&file));
}

fn fill(site: &Site, messages: usize, folders: usize) {
    let program = format!(
        r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
folders = ["INBOX"] + ["Project %d/Part %d" % (n // 5, n) for n in range({folders} - 1)]
for folder in folders[1:]:
    assert imap.create('"%s"' % folder)[0] == "OK"
for n in range({messages}):
    text = b"Subject: %d\r\nMessage-ID: <%d@x>\r\nFrom: a@x.example\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\n\r\nbody %d\r\n" % (n, n, n)
    flags = ["", "(\\Seen)", "(\\Flagged)", "(\\Seen \\Answered)"][n % 4]
    assert imap.append('"%s"' % folders[n % len(folders)], flags or None, None, text)[0] == "OK"
"#
    );
    python(site, &program);
}

#[tokio::test(flavor = "multi_thread")]
async fn offlineimap_and_getmail_fetch_everything_once() {
    let site = site();
    fill(&site, 60, 4);
    let home = site.data().join("offlineimap");
    std::fs::create_dir_all(&home).unwrap();
    let fingerprint = run(Command::new(program("openssl", "openssl"))
        .args(["x509", "-noout", "-fingerprint", "-sha1", "-in"])
        .arg(site.data().join("tls/cert.pem")));
    let fingerprint = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    let config = format!(
        "[general]\nmetadata = {home}/meta\naccounts = a\nui = basic\n\n[Account a]\nlocalrepository = l\n\
         remoterepository = r\n\n[Repository l]\ntype = Maildir\nlocalfolders = {home}/mail\n\n[Repository r]\n\
         type = IMAP\nremotehost = localhost\nremoteport = {port}\nremoteuser = bob@example.com\nremotepass = secret\n\
         ssl = yes\ncert_fingerprint = {fingerprint}\n",
        home = home.display(),
        port = site.port(993),
    );
    std::fs::write(home.join("rc"), config).unwrap();
    let sync = || run(Command::new(program("offlineimap", "offlineimap3")).arg("-o").arg("-c").arg(home.join("rc")));
    sync();
    assert_eq!(mails(&home.join("mail")).len(), 60);
    // What changes here is changed there, and the other way round.
    let one = mails(&home.join("mail/INBOX")).into_iter().find(|m| m.ends_with(":2,")).unwrap();
    std::fs::rename(&one, format!("{}S", one.replace("/new/", "/cur/"))).unwrap();
    sync();
    let seen = python(
        &site,
        "imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')\n\
         imap.select('INBOX'); print(len(imap.search(None, 'SEEN')[1][0].split()))\n\
         imap.store('1', '+FLAGS', '(\\\\Deleted)'); imap.expunge()\n",
    );
    assert_eq!(seen.trim(), "1", "the one that was read here");
    sync();
    assert_eq!(mails(&home.join("mail")).len(), 59);

    // As root, getmail delivers only as somebody else, who has to get there.
    let folder = tempfile::Builder::new().prefix("postroad-getmail").tempdir_in("/tmp").unwrap();
    let home = folder.path().to_owned();
    let user = if is_root() { "user = nobody\n" } else { "" };
    for folder in ["mail/cur", "mail/new", "mail/tmp"] {
        std::fs::create_dir_all(home.join(folder)).unwrap();
    }
    let config = format!(
        "[retriever]\ntype = SimpleIMAPSSLRetriever\nserver = localhost\nport = {port}\nusername = bob@example.com\n\
         password = secret\nmailboxes = (\"INBOX\",)\nca_certs = {ca}\n\n[destination]\ntype = Maildir\n\
         path = {home}/mail/\n{user}\n[options]\nread_all = false\ndelivered_to = false\nreceived = false\n",
        home = home.display(),
        port = site.port(993),
        ca = site.ca().display()
    );
    std::fs::write(home.join("getmailrc"), config).unwrap();
    run(Command::new("chmod").arg("755").arg(&home));
    if is_root() {
        run(Command::new("chown").args(["-R", "nobody"]).arg(home.join("mail")));
    }
    for expected in [14, 14] {
        run(Command::new(program("getmail", "getmail6")).arg("--getmaildir").arg(&home));
        assert_eq!(mails(&home.join("mail")).len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mbsync_converges_with_much_mail_on_two_devices() {
    let site = site();
    fill(&site, 2_000, 30);
    let device = |name: &str| {
        let home = site.data().join(name);
        std::fs::create_dir_all(home.join("mail")).unwrap();
        let config = format!(
            "IMAPAccount a\nHost localhost\nPort {}\nUser bob@example.com\nPass secret\nSSLType IMAPS\n\
             CertificateFile {}\nAuthMechs PLAIN\n\nIMAPStore far\nAccount a\n\nMaildirStore near\nPath {home}/mail/\n\
             Inbox {home}/mail/INBOX\nSubFolders Verbatim\n\nChannel all\nFar :far:\nNear :near:\nPatterns *\n\
             Create Both\nExpunge Both\nSyncState *\n",
            site.port(993),
            site.ca().display(),
            home = home.display()
        );
        std::fs::write(home.join("rc"), config).unwrap();
        home
    };
    let sync = |home: &Path| {
        let said = run(Command::new(program("mbsync", "isync")).arg("-c").arg(home.join("rc")).arg("all"));
        assert!(!said.to_lowercase().contains("conflict") && !said.to_lowercase().contains("warning"), "{said}");
    };
    let (phone, laptop) = (device("phone"), device("laptop"));
    sync(&phone);
    sync(&laptop);
    let all = |home: &Path| -> Vec<String> {
        let mail = mails(&home.join("mail"));
        let mut found: Vec<String> = mail
            .iter()
            .map(|m| {
                let text = std::fs::read_to_string(m).unwrap();
                let subject = text.lines().find(|l| l.starts_with("Subject:")).unwrap().to_owned();
                let flags = m.rsplit_once(":2,").map_or("", |(_, f)| f);
                let folder = Path::new(m).parent().unwrap().parent().unwrap();
                format!("{} {subject} {flags}", folder.strip_prefix(home).unwrap().display())
            })
            .collect();
        found.sort();
        found
    };
    assert_eq!(all(&phone).len(), 2_000);
    assert_eq!(all(&phone), all(&laptop));
    // Both are used offline: one deletes every tenth, the other flags every seventh and files new.
    let number = |mail: &str| -> usize {
        let text = std::fs::read_to_string(mail).unwrap();
        text.lines().find_map(|l| l.strip_prefix("Subject: ")).unwrap().parse().unwrap()
    };
    for mail in mails(&phone.join("mail")).iter().filter(|m| number(m) % 10 == 0) {
        std::fs::remove_file(mail).unwrap();
    }
    for mail in mails(&laptop.join("mail")).iter().filter(|m| number(m) % 10 == 7) {
        if mail.contains(":2,") {
            let (base, flags) = mail.rsplit_once(":2,").unwrap();
            let mut flags: Vec<char> = flags.chars().chain(['F']).collect();
            flags.sort_unstable();
            flags.dedup();
            let to = format!("{base}:2,{}", flags.into_iter().collect::<String>());
            std::fs::rename(mail, to.replace("/new/", "/cur/")).unwrap();
        }
    }
    for n in 0..20 {
        let new = laptop.join(format!("mail/INBOX/cur/{n}.new:2,S"));
        std::fs::write(new, format!("Subject: new {n}\nMessage-ID: <new{n}@x>\n\nnew\n")).unwrap();
    }
    for home in [&phone, &laptop, &phone] {
        sync(home);
    }
    let (on_phone, on_laptop) = (all(&phone), all(&laptop));
    assert_eq!(on_phone, on_laptop);
    assert_eq!(on_phone.len(), 2_000 - 200 + 20);
}

/// Paths of all messages below a folder.
fn mails(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if matches!(folder.file_name().and_then(|n| n.to_str()), Some("cur" | "new")) {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}
