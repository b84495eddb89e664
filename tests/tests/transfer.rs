//! Mail in and out of Maildir and mbox by the command line.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use tests::{
    chaos::sql,
    client::python,
    site::{Options, Site, free_port_offset},
};

fn site(host: &str) -> Site {
    let site = Site::up(Options::new(host, free_port_offset(&[host]), "example.com"));
    for name in ["bob", "ann", "eve"] {
        site.account(&format!("{name}@example.com"));
    }
    site
}

fn maildir(root: &Path) {
    for (folder, list) in [("", true), (".Sent", false), (".Lists.Entw&APw-rfe", false)] {
        let folder = root.join(folder);
        for part in ["cur", "new", "tmp"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        if list {
            let mut lines = "3 V1276528487 N5000 G00\n".to_owned();
            for n in 1..=250u32 {
                let uid = if n <= 200 { n } else { n + 1_000 };
                let unique_id = if n % 2 == 0 { format!(" Pold-{n}") } else { String::new() };
                lines.push_str(&format!("{uid}{unique_id} :{}.M{n}.host\n", 1_000_000 + n));
                let flags = if n % 5 == 0 { "FSa" } else { "S" };
                let file = folder.join("cur").join(format!("{}.M{n}.host:2,{flags}", 1_000_000 + n));
                fs::write(file, format!("Message-ID: <{n}@old>\nSubject: Number {n}\n\nbody {n}\n")).unwrap();
            }
            fs::write(folder.join("dovecot-uidlist"), lines).unwrap();
            fs::write(folder.join("dovecot-keywords"), "0 Work\n").unwrap();
        }
        fs::write(folder.join("new/2000000.M1.host"), "Subject: new\n\nunread\n").unwrap();
    }
}

#[test]
fn a_maildir_comes_in_with_its_uids_and_goes_out_again() {
    let site = site("127.0.0.33");
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old");
    maildir(&old);
    let import = |more: &[&str]| {
        let arguments = ["--json", "import", "bob@example.com", old.to_str().unwrap()];
        serde_json::from_str::<serde_json::Value>(&site.admin(&[&arguments, more].concat(), "")).unwrap()
    };
    // It does not fit, half of it comes in, and the second run takes the rest.
    site.admin(&["account", "quota", "bob@example.com", "--bytes", "0", "--messages", "120"], "");
    let stopped = site.try_cli("admin", &["import", "bob@example.com", old.to_str().unwrap()], "");
    let words = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(!stopped.status.success() && words.contains("over its quota"), "{words}");
    site.admin(&["account", "quota", "bob@example.com", "--bytes", "0"], "");
    let second = import(&[]);
    let (imported, skipped) = (second["imported"].as_u64().unwrap(), second["skipped"].as_u64().unwrap());
    assert_eq!((imported + skipped, skipped > 0), (253, true), "{second}");
    assert_eq!(import(&[])["imported"], 0, "there is nothing left to do");

    python(
        &site,
        r#"
i = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
i.login("bob@example.com", "secret")
assert i.select("INBOX")[1] == [b"251"]
assert i.response("UIDVALIDITY")[1] == [b"1276528487"], "UIDVALIDITY is the old one"
typ, data = i.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE)")
uids = [int(re.search(rb"UID (\d+)", d).group(1)) for d in data]
assert uids[:250] == list(range(1, 201)) + list(range(1201, 1251)), uids
assert rb"Work" in data[4] and rb"\Flagged" in data[4], data[4]
typ, data = i.uid("FETCH", "1203", "(BODY[])")
assert data[0][1] == b"Message-ID: <203@old>\r\nSubject: Number 203\r\n\r\nbody 203\r\n", data
names = str(i.list()[1])
assert "Lists/Entw&APw-rfe" in names, names
p = poplib.POP3_SSL(HOST, PORT[995], context=TLS)
p.user("bob@example.com"); p.pass_("secret")
ids = dict(line.split() for line in p.uidl()[1])
assert ids[b"2"] == b"old-2" and ids[b"1"] != b"old-1", list(ids.items())[:3]
p.quit()
"#,
    );

    // Out, in as another account, and nothing is different.
    let out = folder.path().join("out");
    let export = || site.admin(&["export", "bob@example.com", out.to_str().unwrap()], "");
    export();
    let files = || fs::read_dir(out.join("cur")).unwrap().count();
    assert_eq!(files(), 251);
    export();
    assert_eq!(files(), 251, "a second run adds nothing");
    site.admin(&["import", "ann@example.com", out.to_str().unwrap()], "");
    let difference = sql(
        &site,
        "with mail as (
             select a.address, b.name, m.uid, m.flags, m.keywords, m.uidl, m.size, date_trunc('second', m.internal_date) d,
                    md5(c.header || c.body) as content
             from accounts a join mailboxes b on b.account_id = a.id
             join messages m on m.account_id = a.id and m.mailbox_id = b.id join contents c on c.id = m.content_id)
         select count(*) from (
             select name, uid, flags, keywords, uidl, size, d, content from mail where address = 'bob@example.com'
             except select name, uid, flags, keywords, uidl, size, d, content from mail where address = 'ann@example.com') x",
    );
    assert_eq!(difference.as_deref(), Some("0"));
}

#[test]
fn an_mbox_comes_in_and_goes_out_again() {
    let site = site("127.0.0.34");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old.mbox");
    let text = "From a@b.c Thu Jan  1 00:01:00 1970\nSubject: one\nStatus: RO\n\n>From here\nend\n\n\
                From a@b.c Thu Jan  1 00:02:00 1970\nSubject: two\n\nsecond\n\n";
    fs::write(&file, text).unwrap();
    let import = ["import", "eve@example.com", file.to_str().unwrap(), "--format", "mbox", "--mailbox", "Old/Mail"];
    assert!(site.admin(&import, "").starts_with("2 messages imported"));
    assert!(site.admin(&import, "").starts_with("0 messages imported, 2 were there"));
    let out = folder.path().join("out");
    site.admin(&["export", "eve@example.com", out.to_str().unwrap(), "--format", "mbox"], "");
    let written = fs::read_to_string(out.join("Old.Mail.mbox")).unwrap();
    assert!(
        written.contains("\n>From here\nend\n\nFrom MAILER-DAEMON Thu Jan  1 00:02:00 1970\nSubject: two\n"),
        "{written}"
    );
    let bad = folder.path().join("bad");
    fs::write(&bad, "no mbox").unwrap();
    let refused = site.try_cli("admin", &["import", "eve@example.com", bad.to_str().unwrap(), "--format", "mbox"], "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no mbox"));
}
