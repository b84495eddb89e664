//! The extensions, by the examples of their RFCs.

use std::collections::HashMap;

use crate::world::{Message, holds, needs, outcome, refused, run};
use sieve::{Action, Fact, RunError, Stop};

fn plain() -> Message {
    Message::new(
        "From: coyote@ACME.Example.COM\nTo: ken+sieve@example.org, alan@x.org\nX-Priority: 2\nMessage-ID: <1@x>\n\
         List-ID: <mta.acme-users.org>\nSubject: [acme-users] [fwd] version 1.0 is out\nDate: Tue, 21 Feb 2006 21:52:25 -0800\n\
         Received: from a by b; Tue, 21 Feb 2006 10:00:00 +0000\nReceived: from c by d; Mon, 20 Feb 2006 09:00:00 +0100\n\nhello body\n",
    )
}

#[test]
fn variables_of_rfc_5229() {
    let lists = r#"require ["fileinto", "variables"];
        if header :matches "List-ID" "*<*@*" { fileinto "INBOX.lists.${2}"; stop; }
        if header :matches "Subject" "[*] *" { fileinto "sub ${1}: ${2}"; }"#;
    assert_eq!(outcome(lists, &plain()), ["fileinto sub acme-users: [fwd] version 1.0 is out"]);
    let address = r#"require ["fileinto", "variables"];
        if address :matches ["To", "Cc"] ["coyote@**.com", "wile@**.com", "ken*@*.org"] { fileinto "INBOX.business.${2}"; }"#;
    assert_eq!(outcome(address, &plain()), ["fileinto INBOX.business.example"]);
    let set = |command: &str| outcome(&format!("require [\"variables\",\"fileinto\"]; {command}"), &plain());
    assert_eq!(
        set(
            r#"set "honorific" "Mr"; set "first_name" "Wile"; set "name" "${HONORIFIC} ${first_NAME}"; fileinto "${name}";"#
        ),
        ["fileinto Mr Wile"]
    );
    for (modifiers, expected) in [
        ("", "juMBlEd lETteRS"),
        (":lower", "jumbled letters"),
        (":upperfirst", "JuMBlEd lETteRS"),
        (":upperfirst :lower", "Jumbled letters"),
        (":length", "15"),
    ] {
        let command = format!(r#"set "a" "juMBlEd lETteRS"; set {modifiers} "b" "${{a}}"; fileinto "${{b}}";"#);
        assert_eq!(set(&command), [format!("fileinto {expected}")], "{modifiers}");
    }
    assert_eq!(set(r#"set :quotewildcard "b" "Rock*"; fileinto "${b}";"#), ["fileinto Rock\\*"]);
    assert_eq!(set(r#"set "a" "x"; if string :is "${a}${none}" "x" { fileinto "yes"; }"#), ["fileinto yes"]);
    assert!(holds(
        &["variables", "relational", "comparator-i;ascii-numeric"],
        r#"string :count "eq" :comparator "i;ascii-numeric" ["a", "", "${none}", "b"] "2""#,
        &plain()
    ));
    assert!(refused("require \"variables\"; set :upper :lower \"a\" \"b\";").contains("exclude"));
    assert!(refused("require \"variables\"; set \"a.b\" \"c\";").contains("name of a variable"));
    assert!(refused("set \"a\" \"c\";").contains("require \"variables\""));
    // Growth ends.
    let double = r#"set "a" "${a}${a}x";"#.repeat(200);
    let script =
        format!("require [\"variables\", \"fileinto\"]; {double} set :length \"n\" \"${{a}}\"; fileinto \"${{n}}\";");
    assert_eq!(outcome(&script, &plain()), ["fileinto 16384"]);
}

#[test]
fn relational_of_rfc_5231() {
    let require = ["relational", "comparator-i;ascii-numeric"];
    let numeric = r#":comparator "i;ascii-numeric""#;
    assert!(holds(&require, &format!(r#"header :value "lt" {numeric} "x-priority" "3""#), &plain()));
    assert!(!holds(&require, &format!(r#"header :value "ge" {numeric} "x-priority" "3""#), &plain()));
    assert!(holds(&require, &format!(r#"address :count "eq" {numeric} ["to", "from"] "3""#), &plain()));
    assert!(holds(&require, &format!(r#"header :count "gt" {numeric} "received" "1""#), &plain()));
    assert!(holds(&["relational"], r#"header :value "ne" "x-priority" "3""#, &plain()));
    assert!(refused("if header :count \"gt\" \"a\" \"1\" { }").contains("require \"relational\""));
    assert!(refused("require \"relational\"; if header :count \"xx\" \"a\" \"1\" { }").contains("expected \"gt\""));
}

#[test]
fn subaddresses_of_rfc_5233() {
    assert!(holds(&["subaddress"], r#"address :user "to" "ken""#, &plain()));
    assert!(holds(&["subaddress"], r#"address :detail "to" "sieve""#, &plain()));
    assert!(!holds(&["subaddress"], r#"address :detail "to" """#, &plain()), "alan has no detail");
    assert!(holds(&["subaddress"], r#"address :detail "to" """#, &Message::new("To: a+@b\n\n")));
    assert!(holds(&["subaddress", "envelope"], r#"envelope :detail "to" "fast""#, &plain()));
}

#[test]
fn flags_of_rfc_5232() {
    let run = |commands: &str| {
        outcome(&format!("require [\"imap4flags\",\"fileinto\",\"variables\",\"relational\"]; {commands}"), &plain())
    };
    assert_eq!(
        run(r#"addflag "\\Deleted"; addflag ["\\flagged \\DELETED", "$Work"]; "#),
        ["keep [\\Deleted \\Flagged $Work]"]
    );
    assert_eq!(run(r#"setflag "\\Seen $x"; removeflag "\\SEEN"; keep; setflag "y";"#), ["keep [$x]"]);
    assert_eq!(
        run(r#"setflag "a"; fileinto :flags ["\\Seen", "b c"] "x"; keep;"#),
        ["fileinto x [\\Seen b c]", "keep [a]"]
    );
    assert_eq!(run(r#"setflag "mine" "a b"; keep :flags "${mine}";"#), ["keep [a b]"]);
    assert_eq!(run(r#"setflag ["\\Recent", "\\Bogus", "(", "ok"];"#), ["keep [ok]"]);
    assert_eq!(run(r#"setflag "A B"; if hasflag "b" { fileinto "has"; }"#), ["fileinto has [A B]"]);
    assert_eq!(run(r#"setflag "A B"; if hasflag :count "ge" "2" { fileinto :flags "" "two"; }"#), ["fileinto two"]);
    assert_eq!(run(r#"set "v" "x1 y"; if hasflag :matches "v" "x?" { fileinto "${1}"; }"#), ["fileinto 1"]);
}

#[test]
fn dates_of_rfc_5260() {
    let require = ["date", "relational", "index"];
    for test in [
        r#"date :value "ge" :originalzone "date" "hour" "09""#,
        r#"date :originalzone "date" "hour" "21""#,
        r#"date "date" "hour" "05""#,
        r#"date :zone "-0800" "date" "weekday" "2""#,
        r#"date :index 1 "received" "date" "2006-02-21""#,
        r#"date :index 1 :last "received" "time" "08:00:00""#,
        r#"date :matches "date" "iso8601" "2006-02-22T*+00:00""#,
        r#"currentdate :zone "+0000" "date" "2006-02-22""#,
        r#"allof (currentdate :value "ge" "date" "2006-02-01", currentdate :value "le" "date" "2006-02-28")"#,
        r#"header :index 2 :contains "received" "from c""#,
        r#"header :index 1 :last :contains "received" "from c""#,
        r#"not header :index 3 :contains "received" """#,
    ] {
        assert!(holds(&require, test, &plain()), "{test}");
    }
    assert!(refused("require \"date\"; if date \"date\" \"fortnight\" \"1\" { }").contains("part of a date"));
    assert!(refused("require \"date\"; if date :zone \"x\" \"date\" \"year\" \"1\" { }").contains("expected a zone"));
    assert!(refused("require [\"date\",\"index\"]; if date :last \"date\" \"year\" \"1\" { }").contains(":index"));
}

#[test]
fn bodies_of_rfc_5173() {
    let message = Message::new(
        "From: a@x\nSubject: doc\nContent-Type: multipart/mixed; boundary=outer\n\nprologue\n--outer\n\
         Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n<b>MAKE</b> =4D=4FNEY f=FCr\n--outer\n\
         Content-Type: message/rfc822\n\nFrom: inner@x\nSubject: project schedule\n\n\
         inner text\n--outer\nContent-Type: application/pdf\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n--outer--\nepilogue\nof two lines\n",
    );
    for (test, expected) in [
        (r#"body :raw :contains "=4D=4FNEY""#, true),
        (r#"body :text :contains "make money für""#, true),
        (r#"body :contains "inner text""#, true),
        (r#"body :raw :contains "MONEY""#, false),
        (r#"body :content "text" :contains "<b>MAKE</b> MONEY""#, true),
        (r#"body :content "message/rfc822" :contains "project schedule""#, true),
        (r#"body :content "message" :contains "inner text""#, false),
        (r#"body :content ["image", "application/pdf"] :is "hello""#, true),
        (r#"body :content "" :contains "hello""#, true),
        // §5.2: of a multipart prologue and epilogue, each as one string, without the parts.
        (r#"body :content "multipart" :is "prologue""#, true),
        (r#"body :content "multipart/mixed" :matches "epilogue*of two lines*""#, true),
        (r#"body :content "multipart" :contains "MONEY""#, false),
        (r#"body :content "multipart" :contains "outer""#, false),
        (r#"body :content "multipart/alternative" :contains "prologue""#, false),
        (r#"body :content "" :is "prologue""#, true),
        (r#"body :text :contains "epilogue""#, false),
    ] {
        assert_eq!(holds(&["body"], test, &message), expected, "{test}");
    }
    // Nothing around the parts, no parts, no end.
    for (body, prologue) in
        [("--b\n\nx\n--b--", ""), ("no parts", "no parts"), ("--b\n\nx\n", ""), ("\n--b\n\nx\n--b--\n", "")]
    {
        let message = Message::new(&format!("Content-Type: multipart/mixed; boundary=b\n\n{body}"));
        assert!(holds(&["body"], &format!("body :content \"multipart\" :is \"{prologue}\""), &message), "{body}");
        assert!(!holds(&["body"], "body :content \"multipart\" :contains \"b\"", &message), "{body}");
    }
    // Only what looks at the body needs it.
    let unread = Message { is_loaded: false, ..Message::new("Subject: x\n\nbody\n") };
    assert_eq!(needs("require \"body\"; if body :contains \"x\" { discard; }", &unread), Some(Fact::Content));
    assert_eq!(
        outcome("require \"body\"; if anyof (header \"subject\" \"x\", body :contains \"x\") { discard; }", &unread),
        [""; 0]
    );
    // No wildcard of a body is remembered.
    let script = r#"require ["body", "variables", "fileinto"]; if header :matches "subject" "d?c" { }
        if body :matches "*MONEY*" { fileinto "${1}"; }"#;
    assert_eq!(outcome(script, &message), ["fileinto o"]);
}

#[test]
fn mailboxes_of_rfc_5490_and_duplicates_of_rfc_7352() {
    let script = r#"require ["mailbox", "fileinto"];
        if mailboxexists "Partners" { fileinto "Partners"; } else { fileinto :create "New"; }"#;
    assert_eq!(needs(script, &plain()), Some(Fact::Mailbox("Partners".into())));
    let known = |exists| Message { mailboxes: HashMap::from([("Partners".into(), exists)]), ..plain() };
    assert_eq!(outcome(script, &known(true)), ["fileinto Partners"]);
    assert_eq!(outcome(script, &known(false)), ["fileinto New :create"]);

    let script = r#"require "duplicate"; if duplicate :handle "h" :seconds 60 :last { discard; }"#;
    let Some(Fact::Tracked(key)) = needs(script, &plain()) else { panic!("nothing asked") };
    let known = |tracked| Message { tracked: HashMap::from([(key.clone(), tracked)]), ..plain() };
    assert_eq!(outcome(script, &known(true)), [""; 0]);
    let first = run(script, &known(false)).expect("ran");
    assert_eq!(first.actions, [Action::Keep { flags: vec![] }]);
    assert_eq!(
        (first.tracked[0].key.as_str(), first.tracked[0].seconds, first.tracked[0].renew),
        (key.as_str(), 60, true)
    );
    // Without a Message-ID there is nothing to compare.
    assert_eq!(outcome("require \"duplicate\"; if duplicate { discard; }", &Message::new("\n")), ["keep"]);
    assert!(refused("require \"duplicate\"; if duplicate :header \"x\" :uniqueid \"y\" { }").contains("not both"));
}

#[test]
fn vacation_and_reject_do_not_go_with_everything() {
    let vacation = |arguments: &str| {
        format!("require [\"vacation\",\"vacation-seconds\",\"reject\",\"ereject\",\"copy\"]; vacation {arguments};")
    };
    assert_eq!(outcome(&vacation("\"away\""), &plain()), ["vacation 604800 away", "keep"]);
    assert_eq!(outcome(&vacation(":days 0 \"away\""), &plain()), ["vacation 86400 away", "keep"]);
    assert_eq!(outcome(&vacation(":seconds 5 \"away\""), &plain()), ["vacation 5 away", "keep"]);
    let conflict = |s: &str| matches!(run(s, &plain()), Err(Stop::Failed(RunError::Conflict(..))));
    assert!(conflict(&vacation("\"a\"; vacation \"b\"")));
    assert!(conflict(&vacation("\"a\"; reject \"b\"")));
    assert!(conflict("require \"ereject\"; ereject \"no\"; keep;"));
    assert!(conflict("require [\"ereject\",\"reject\"]; ereject \"no\"; reject \"no\";"));
    assert_eq!(outcome("require \"ereject\"; ereject \"no\"; discard;", &plain()), ["reject no"]);
    assert!(refused(&vacation(":from \"nobody\" \"x\"")).contains("expected an address"));
    assert!(refused(&vacation(":days 1 :seconds 2 \"x\"")).contains("not both"));
}

#[test]
fn environment_of_rfc_5183() {
    assert!(holds(&["environment"], r#"environment "location" "mda""#, &plain()));
    assert!(!holds(&["environment"], r#"environment :matches "remote-ip" "*""#, &plain()));
}
