//! Forwarding over three sites: an alias at example.com leads from sender.com to final.com. The
//! forward passes DMARC at its end, and bounces find their way back.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::{
    client::{python, python_of, venv},
    dns::NameServer,
    eventually,
    site::{Options, Site, free_port_offset},
};

const HOSTS: [&str; 3] = ["127.0.0.21", "127.0.0.22", "127.0.0.23"];
const DOMAINS: [&str; 3] = ["sender.com", "example.com", "final.com"];

struct World {
    _dns: NameServer,
    sender: Site,
    example: Site,
    last: Site,
}

impl World {
    async fn up(config: &str) -> Self {
        let dns = NameServer::start(&["com."]).await;
        for (domain, host) in DOMAINS.iter().zip(HOSTS) {
            dns.add(&format!("{domain} MX 10 mail.{domain}")).await;
            dns.add(&format!("mail.{domain} A {host}")).await;
            // Reports have the null reverse-path, so that SPF is about HELO (RFC 7208 §2.3).
            dns.add(&format!("mail.{domain} TXT v=spf1 a -all")).await;
            dns.add(&format!("{domain} TXT v=spf1 ip4:{host} -all")).await;
            dns.add(&format!("_dmarc.{domain} TXT v=DMARC1; p=reject")).await;
        }
        let offset = free_port_offset(&HOSTS);
        let up = |host: &str, domain: &str| {
            let (server, port) = (dns.address.to_string(), (25 + offset).to_string());
            let mut options = Options::new(host, offset, domain).more(&["--dns", &server, "--relay-port", &port]);
            options.config = Some(format!("outbound-relay: {{ retry_first: 1, retry_max: 2 }}\n{config}"));
            Site::up(options)
        };
        let [sender, example, last] = [0, 1, 2].map(|n| up(HOSTS[n], DOMAINS[n]));
        for (site, domain) in [(&sender, DOMAINS[0]), (&example, DOMAINS[1]), (&last, DOMAINS[2])] {
            let json: serde_json::Value =
                serde_json::from_str(&site.admin(&["--json", "dkim", "list", domain], "")).unwrap();
            for key in json["keys"].as_array().unwrap() {
                let text = |name: &str| key["record"][name].as_str().unwrap();
                dns.add(&format!("{} TXT {}", text("name"), text("value"))).await;
            }
        }
        sender.account("alice@sender.com");
        example.account("bob@example.com");
        last.account("carol@final.com");
        Self { _dns: dns, sender, example, last }
    }

    fn send(&self, to: &str) -> String {
        let program = format!(
            r#"
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("alice@sender.com", "secret")
smtp.mail("alice@sender.com"); assert smtp.rcpt({to:?})[0] == 250
code, text = smtp.data(b"From: alice@sender.com\r\nTo: <{to}>\r\nSubject: hi\r\n\r\nhello\r\n")
assert code == 250, (code, text); print(text.split()[-1].decode())
"#
        );
        python(&self.sender, &program).trim().to_owned()
    }
}

/// The first message of a mailbox.
fn read(site: &Site, user: &str) -> String {
    let program = format!(
        r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login({user:?}, "secret")
for _ in range(1800):
    if int(imap.select("INBOX")[1][0]): break
    time.sleep(0.1)
print(imap.fetch("1", "(BODY.PEEK[])")[1][0][1].decode())
"#
    );
    python(site, &program)
}

/// The reverse-path under which the last site got it.
fn reverse_path(received: &str) -> String {
    let result = received.split("smtp.mailfrom=").nth(1).unwrap();
    result.split([';', '\r', '\n', ' ']).next().unwrap().trim_matches('"').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_passes_dmarc_at_its_end() {
    let world = World::up("").await;
    world.example.admin(&["alias", "add", "carol@example.com", "carol@final.com", "bob@example.com"], "");
    let queue_id = world.send("carol@example.com");
    let received = read(&world.last, "carol@final.com");
    let results: String = received.split("Received:").nth(1).unwrap().to_owned();
    for pass in [
        "spf=pass smtp.mailfrom=SRS0=",
        "dkim=pass header.d=sender.com",
        "arc=pass",
        "dmarc=pass header.from=sender.com",
    ] {
        assert!(results.contains(pass), "{pass} in {received}");
    }
    assert!(reverse_path(&results).ends_with("=sender.com=alice@example.com"), "{results}");
    assert!(received.contains("ARC-Seal: i=1; a=rsa-sha256;") && received.contains("d=example.com; cv=none;"));
    // An independent program says the same of the seal.
    let check = format!(
        r#"
import dkim, json
MESSAGE = {received:?}.replace("\r\n", "\n").replace("\n", "\r\n").encode()
KEYS = {{k["record"]["name"] + ".": k["record"]["value"].encode() for k in json.loads({keys:?})["keys"]}}
lookup = lambda name, timeout=5: KEYS.get(name.decode() if isinstance(name, bytes) else name)
chain, results, reason = dkim.arc_verify(MESSAGE.rstrip() + b"\r\n", dnsfunc=lookup)
assert chain == b"pass", (chain, results, reason)
"#,
        keys = world.example.admin(&["--json", "dkim", "list", "example.com"], "")
    );
    python_of(&venv(&["dkimpy==1.1.8", "dnspython", "pynacl"]), &world.last, &check);
    // Who reads it at example.com sees whom it is really from.
    let local = read(&world.example, "bob@example.com");
    assert!(local.contains("spf=pass smtp.mailfrom=alice@sender.com"), "{local}");
    assert!(world.sender.cli("trace", &[&queue_id], "").contains("relayed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bounces_of_a_forward_reach_the_sender() {
    let world = World::up("").await;
    world.example.admin(&["alias", "add", "gone@example.com", "nobody@final.com"], "");
    world.example.admin(&["alias", "add", "carol@example.com", "carol@final.com"], "");

    // Refused while it is forwarded: example.com tells alice.
    world.send("gone@example.com");
    let report = read(&world.sender, "alice@sender.com");
    assert!(report.contains("multipart/report") && report.contains("nobody@final.com"), "{report}");
    assert!(report.contains("spf=pass smtp.helo=mail.example.com"), "{report}");

    // Accepted, and returned later from there: to the reverse-path that it knows. Nobody signed this
    // report, so its author is of a domain without a DMARC policy.
    world.send("carol@example.com");
    let path = reverse_path(&read(&world.last, "carol@final.com"));
    let bounce = format!(
        r#"
def say(path, sender=""):
    smtp = smtplib.SMTP(HOST, PORT[25], source_address=("{host}", 0)); smtp.ehlo("mail.final.com")
    assert smtp.mail(sender)[0] == 250
    code, text = smtp.rcpt(path)
    if code != 250: return code, text
    return smtp.data(b"From: postmaster@returns.com\r\nSubject: returned\r\n\r\nno room\r\n")
PATH = {path:?}
local, domain = PATH.split("@")
parts = local.split("=")
for wrong in (["SRS0", "aaaaaa"] + parts[2:], parts[:2] + ["zz"] + parts[3:], parts[:3] + ["victim.com", "eve"], ["SRS1"] + parts[1:]):
    code, text = say("=".join(wrong) + "@" + domain)
    assert (code, text[:5]) == (550, b"5.1.1"), (wrong, code, text)
code, text = say(PATH.lower())
"#,
        host = HOSTS[2]
    );
    python(&world.example, &format!("{bounce}assert code == 250, (code, text)\n"));
    let count = || {
        python(
            &world.sender,
            r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("alice@sender.com", "secret")
imap.select("INBOX"); print(len(imap.search(None, "SUBJECT", "returned")[1][0].split()))
"#,
        )
    };
    eventually("it comes back to alice", Duration::from_secs(60), || async { (count().trim() == "1").then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_reverse_paths_and_earlier_forwarders() {
    let world = World::up("").await;
    world.example.admin(&["alias", "add", "carol@example.com", "carol@final.com"], "");
    // Longer than a local part may become (RFC 5321 §4.5.3.1.1), and one that was forwarded before.
    let long = format!("bounce-{}@sender.com", "x".repeat(50));
    let before = "SRS0=abcd=ef=origin.com=u@sender.com";
    let send = |sender: &str| {
        let program = format!(
            r#"
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("{host}", 0)); smtp.ehlo("mail.sender.com")
assert smtp.mail({sender:?})[0] == 250; assert smtp.rcpt("carol@example.com")[0] == 250
code, text = smtp.data(b"From: news@sender.com\r\nSubject: x\r\n\r\nx\r\n"); assert code == 250, (code, text)
print(text.split()[-1].decode())
"#,
            host = HOSTS[0]
        );
        python(&world.example, &program).trim().to_owned()
    };
    let path = |queue_id: &str| {
        let trace = world.example.cli("trace", &[queue_id], "");
        let line = trace.lines().find(|l| l.contains("C: MAIL FROM:<"))?.to_owned();
        Some(line.split("MAIL FROM:<").nth(1)?.split('>').next()?.to_owned())
    };
    let (kept, again) = (send(&long), send(before));
    let kept = eventually("relayed", Duration::from_secs(60), || async { path(&kept) }).await;
    let again = eventually("relayed", Duration::from_secs(60), || async { path(&again) }).await;
    assert!(kept.starts_with("SRS0=") && kept.contains("=kept=") && kept.find('@').unwrap() <= 64, "{kept}");
    assert!(again.starts_with("SRS1=") && again.ends_with("=sender.com==abcd=ef=origin.com=u@example.com"), "{again}");
    let program = format!(
        r#"
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("{host}", 0)); smtp.ehlo("mail.final.com")
for path in {paths:?}:
    smtp.mail(""); code, text = smtp.rcpt(path); assert code == 250, (path, code, text)
    code, text = smtp.data(b"From: x@nowhere.com\r\nSubject: returned\r\n\r\nx\r\n"); assert code == 250, (code, text)
    print(text.split()[-1].decode())
"#,
        host = HOSTS[2],
        paths = [&kept, &again]
    );
    let bounces = python(&world.example, &program);
    for (bounce, origin) in bounces.lines().zip([long.as_str(), before]) {
        eventually("the bounce leaves for its origin", Duration::from_secs(60), || async {
            world.example.cli("trace", &[bounce], "").contains(&format!("RCPT TO:<{origin}>")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sieve_redirect_leaves_under_a_reverse_path_of_ours_and_bounces_come_back() {
    let world = World::up("").await;
    let redirect = |to: &str| {
        let text = format!("redirect \"{to}\";");
        world.example.admin(&["sieve", "put", "bob@example.com", "main", "--activate"], &text);
    };
    redirect("carol@final.com");
    world.send("bob@example.com");
    let received = read(&world.last, "carol@final.com");
    let results = received.split("Received:").nth(1).unwrap();
    for pass in ["spf=pass smtp.mailfrom=SRS0=", "dkim=pass header.d=sender.com", "dmarc=pass header.from=sender.com"] {
        assert!(results.contains(pass), "{pass} in {received}");
    }
    assert!(reverse_path(results).ends_with("=sender.com=alice@example.com"), "{results}");
    // Refused at its new place: alice hears of it, by the way that the reverse-path leads.
    redirect("nobody@final.com");
    world.send("bob@example.com");
    let report = read(&world.sender, "alice@sender.com");
    assert!(report.contains("multipart/report") && report.contains("nobody@final.com"), "{report}");
}
