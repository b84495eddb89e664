//! Independent software agrees with us about DKIM and SPF: dkimpy verifies what we sign, we verify
//! what dkimpy signs, pyspf comes to the same results.

#![allow(clippy::unwrap_used)]

use tests::{
    client::{python_of, venv},
    dns::NameServer,
    site::{Options, Site, free_port_offset},
};

/// Bodies on which canonicalisations have been wrong (RFC 6376 §3.4).
const BODIES: &str = r#"
BODIES = [b"hello\r\n", b"", b"\r\n", b" \r\n", b"trailing blank lines\r\n\r\n\r\n", b"blank of spaces\r\n \t\r\n\r\n  \r\n",
          b"  lead  inner   space \t\r\nx\t y \r\n", b".\r\n..\r\n", "Gr\u00fc\u00dfe\r\n".encode(), b"a" * 900 + b"\r\n"]
def deliver(smtp, message):
    smtp.docmd("DATA"); smtp.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
    code, text = smtp.getreply(); assert code == 250, (code, text)
def inbox(count):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
    for _ in range(1800):
        if int(imap.select("INBOX")[1][0]) >= count: break
        time.sleep(0.1)
    return [imap.fetch(str(n + 1), "(BODY.PEEK[])")[1][0][1] for n in range(count)]
"#;

async fn site(host: &str) -> (Site, NameServer) {
    let dns = NameServer::start(&["com."]).await;
    let options = Options::new(host, free_port_offset(&[host]), "example.com");
    let site = Site::up(options.more(&["--dns", &dns.address.to_string()]));
    site.account("bob@example.com");
    (site, dns)
}

#[tokio::test(flavor = "multi_thread")]
async fn dkimpy_verifies_both_our_signatures() {
    let python = venv(&["dkimpy==1.1.8", "dnspython", "pynacl"]);
    let (site, _dns) = site("127.0.0.7").await;
    let records = site.admin(&["--json", "domain", "dns", "example.com"], "");
    let program = r#"
import dkim, json
keys = {r["name"] + ".": r["value"].encode() for r in json.loads(RECORDS)["records"] if "_domainkey" in r["name"]}
for body in BODIES:
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("bob@example.com", "secret")
    smtp.mail("bob@example.com"); smtp.rcpt("bob@example.com")
    deliver(smtp, b"From: Bob  <bob@example.com>\r\nTo: bob@example.com\r\nSubject:  folded\r\n\t  subject \r\n\r\n" + body)
    smtp.quit()
for message in inbox(len(BODIES)):
    checked = dkim.DKIM(message)
    for index in range(2):
        lookup = lambda name, timeout=5: keys.get(name.decode() if isinstance(name, bytes) else name)
        assert checked.verify(idx=index, dnsfunc=lookup), message
"#;
    python_of(&python, &site, &format!("RECORDS = {records:?}\n{BODIES}{program}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn we_verify_what_dkimpy_signs() {
    let python = venv(&["dkimpy==1.1.8", "dnspython", "pynacl"]);
    let (site, dns) = site("127.0.0.7").await;
    let make_keys = r#"
import base64, subprocess, nacl.signing
rsa = subprocess.run(["openssl", "genrsa", "-traditional", "2048"], capture_output=True, check=True).stdout
public = subprocess.run(["openssl", "rsa", "-pubout", "-outform", "DER"], input=rsa, capture_output=True, check=True).stdout
seed = nacl.signing.SigningKey.generate()
print(base64.b64encode(rsa).decode()); print(base64.b64encode(public).decode())
print(base64.b64encode(bytes(seed)).decode()); print(base64.b64encode(bytes(seed.verify_key)).decode())
"#;
    let keys = python_of(&python, &site, make_keys);
    let keys: Vec<&str> = keys.lines().collect();
    dns.add(&format!("r._domainkey.other.com TXT v=DKIM1; k=rsa; p={}", keys[1])).await;
    dns.add(&format!("e._domainkey.other.com TXT v=DKIM1; k=ed25519; p={}", keys[3])).await;
    let program = r#"
import base64, dkim
cases = []
for body in BODIES:
    for header in (b"simple", b"relaxed"):
        for canonical in (b"simple", b"relaxed"):
            for selector, algorithm, key in ((b"r", b"rsa-sha256", base64.b64decode(RSA)), (b"e", b"ed25519-sha256", SEED.encode())):
                message = b"From: a@other.com\r\nSubject:  x\t y \r\n  z\r\n\r\n" + body
                signature = dkim.sign(message, selector, b"other.com", key, canonicalize=(header, canonical),
                                      signature_algorithm=algorithm)
                cases.append(signature + message)
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("mail.other.com")
for message in cases:
    smtp.mail("a@other.com"); smtp.rcpt("bob@example.com"); deliver(smtp, message)
for message in inbox(len(cases)):
    assert b"dkim=pass" in message.split(b"\r\n\r\n")[0], message
# And one that was touched on its way.
smtp.mail("a@other.com"); smtp.rcpt("bob@example.com"); deliver(smtp, cases[0].replace(b"hello", b"jello"))
assert b"dkim=fail" in inbox(len(cases) + 1)[-1]
"#;
    python_of(&python, &site, &format!("RSA, SEED = {:?}, {:?}\n{BODIES}{program}", keys[0], keys[2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pyspf_agrees_with_us() {
    let python = venv(&["pyspf==2.0.14", "py3dns==4.0.2"]);
    let (site, dns) = site("127.0.0.7").await;
    let mut records = vec![
        "a.com A 127.0.0.66".to_owned(),
        "mx.com MX 10 a.com".to_owned(),
        "inc.com TXT v=spf1 ip4:127.0.0.66 -all".to_owned(),
        "no.com TXT v=spf1 -all".to_owned(),
        "127.0.0.66.ip.com A 127.0.0.2".to_owned(),
        "s.ex.com A 127.0.0.2".to_owned(),
    ];
    let terms = [
        "ip4:127.0.0.66",
        "ip4:127.0.0.0/24",
        "ip4:127.0.0.128/25",
        "a:a.com",
        "a:a.com/24",
        "mx:mx.com",
        "include:inc.com",
        "include:no.com",
        "include:none.com",
        "exists:%{i}.ip.com",
        "exists:%{l}.ex.com",
        "a",
        "mx",
        "ip6:::1",
        "redirect=inc.com",
        "redirect=none.com",
        "ip4:300.1.1.1",
        "unknown:x",
        "ptr",
        "exp=x.com",
        "a:%{d}",
        "a:",
    ];
    let mut number = 0;
    for (n, first) in terms.iter().enumerate() {
        for second in [terms[(n * 7 + 3) % terms.len()], terms[(n * 5 + 1) % terms.len()]] {
            for (qualifier, all) in [("", "-all"), ("~", "?all"), ("?", ""), ("-", "+all")] {
                let qualifier = if first.contains('=') { "" } else { qualifier };
                records
                    .push(format!("s{number}.com TXT v=spf1 {qualifier}{first} {second} {all}").trim_end().to_owned());
                number += 1;
            }
        }
    }
    for record in &records {
        dns.add(record).await;
    }
    let program = r#"
import spf
zone = {}
for line in ZONE:
    name, kind, rest = line.split(" ", 2)
    value = (int(rest.split()[0]), rest.split()[1]) if kind == "MX" else [rest.encode()] if kind == "TXT" else rest
    zone.setdefault((name.lower(), kind), []).append(((name, kind), value))
spf.DNSLookup = lambda name, kind, strict=True, timeout=None, level=0: zone.get((name.lower().rstrip("."), kind), [])
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("127.0.0.66", 0)); smtp.ehlo("mail.client.com")
for n in range(COUNT):
    smtp.mail(f"s@s{n}.com"); smtp.rcpt("bob@example.com"); deliver(smtp, b"From: s@nowhere.com\r\nSubject: %d\r\n\r\nx\r\n" % n)
differ = []
for message in inbox(COUNT):
    n = int(re.search(rb"Subject: (\d+)", message).group(1))
    ours = re.search(rb"spf=(\w+)[^;]*smtp\.mailfrom", message.split(b"\r\n\r\n")[0], re.S).group(1).decode()
    theirs = spf.check2(i="127.0.0.66", s=f"s@s{n}.com", h="mail.client.com", querytime=0)[0]
    if ours != theirs: differ.append((zone[(f"s{n}.com", "TXT")], ours, theirs))
assert not differ, f"{len(differ)} of {COUNT} differ: {differ}"
"#;
    python_of(&python, &site, &format!("COUNT = {number}\nZONE = {records:?}\n{BODIES}{program}"));
}
