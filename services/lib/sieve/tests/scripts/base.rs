//! RFC 5228 by its own examples, and what is refused.

use crate::world::{Message, holds, outcome, refused, run};
use sieve::{Limits, RunError, Script, Stop};

const MESSAGE_A: &str = "Date: Tue, 1 Apr 1997 09:06:31 -0800 (PST)
From: coyote@desert.example.org
To: roadrunner@acme.example.com
Subject: I have a present for you

Look, I'm sorry about the whole anvil thing, and I really
didn't mean to try and drop it on you from the top of the
cliff.  I want to try to make it up to you.  I've got some
great birdseed over here at my place--top of the line
stuff--and if you come by, I'll have it all wrapped up
for you.  I'm really sorry for all the problems I've caused
for you over the years, but I know we can work this out.
";
const MESSAGE_B: &str = "From: youcouldberich!@reply-by-postal-mail.invalid
Sender: b1ff@de.res.example.com
To: rube@landru.example.com
Date: Mon, 31 Mar 1997 18:26:10 -0800
Subject: $$$ YOU, TOO, CAN BE A MILLIONAIRE! $$$

YOU MAY HAVE ALREADY WON TEN MILLION DOLLARS, BUT I DOUBT IT!
";

#[test]
fn the_extended_example_of_section_9() {
    let script = r#"
        # Example Sieve Filter
        require ["fileinto"];
        if header :is "Sender" "owner-ietf-mta-filters@imc.org" {
            fileinto "filter";  # move to "filter" mailbox
        }
        elsif address :DOMAIN :is ["From", "To"] "example.com" {
            keep;               # keep in "In" mailbox
        }
        elsif anyof (NOT address :all :contains ["To", "Cc", "Bcc"] "me@example.com",
                     header :matches "subject" ["*make*money*fast*", "*university*dipl*mas*"]) {
            fileinto "spam";
        }
        else {
            fileinto "personal";
        }"#;
    assert_eq!(outcome(script, &Message::new(MESSAGE_A)), ["fileinto spam"]);
    let list = format!("Sender: owner-ietf-mta-filters@imc.org\n{MESSAGE_A}");
    assert_eq!(outcome(script, &Message::new(&list)), ["fileinto filter"]);
    assert_eq!(outcome(script, &Message::new("From: x@EXAMPLE.com\n\n")), ["keep"]);
    assert_eq!(outcome(script, &Message::new("To: me@example.com.org\n\n")), ["fileinto personal"]);
    assert_eq!(
        outcome(script, &Message::new("To: me@example.com.org\nSubject: MAKE your MONEY fast!\n\n")),
        ["fileinto spam"]
    );
}

#[test]
fn tests_of_the_messages_in_section_1() {
    let (a, b) = (Message::new(MESSAGE_A), Message::new(MESSAGE_B));
    assert!(holds(&[], r#"header :contains "from" "coyote""#, &a));
    assert!(holds(&[], r#"not exists ["From","X-Date"]"#, &a));
    assert!(holds(&[], r#"exists ["From","Date"]"#, &a));
    assert!(holds(&[], r#"size :under 1K"#, &a) && holds(&[], "size :over 500", &a));
    assert!(holds(&[], r#"header :is "subject" "$$$ you, too, can be a millionaire! $$$""#, &b));
    assert!(!holds(&[], r#"header :is :comparator "i;octet" "subject" "$$$ you, too, can be a millionaire! $$$""#, &b));
    assert!(holds(&[], r#"address :localpart "from" "youcouldberich!""#, &b));
    assert!(holds(&[], r#"allof (true, not false, anyof (false, true))"#, &b));
    assert!(!holds(&[], r#"header "X-None" """#, &b), "a missing field is not an empty one");
    assert!(holds(&[], r#"header :contains "X-Empty" """#, &Message::new("X-Empty:\n\n")));
    assert!(holds(&["envelope"], r#"envelope :all :is "from" "COYOTE@desert.example.org""#, &a));
    assert!(holds(&["envelope"], r#"envelope "from" """#, &Message { from: String::new(), ..Message::new(MESSAGE_A) }));
}

#[test]
fn headers_are_decoded_and_unfolded() {
    let message =
        Message::new("Subject: =?utf-8?q?J=C3=B6rg?=\n  schreibt\nTo: \"J. \\\"R\\\"\" <a@x>, grp: b@y, c@z;\n\n");
    assert!(holds(&[], r#"header "subject" "Jörg  schreibt""#, &message));
    for address in ["a@x", "b@y", "c@z"] {
        assert!(holds(&[], &format!("address \"to\" \"{address}\""), &message), "{address}");
    }
    assert!(!holds(&[], r#"address :contains "to" "grp""#, &message));
}

#[test]
fn strings_comments_and_numbers() {
    let script = "require \"fileinto\"; /* a\n comment */ fileinto text: # why\nx\n..y\n.\n;";
    // A mailbox with line ends is none.
    assert!(matches!(run(script, &Message::new("\n")), Err(Stop::Failed(RunError::NoMailbox(_)))));
    assert_eq!(outcome("require \"fileinto\"; fileinto \"a\\\"\\b\";", &Message::new("\n")), ["fileinto a\"b"]);
    let escaped = r#"require ["encoded-character", "fileinto"]; fileinto "$${hex:40}${unicode: 20AC}";"#;
    assert_eq!(outcome(escaped, &Message::new("\n")), ["fileinto $@€"]);
}

#[test]
fn keeping_is_implicit_until_something_else_is_done() {
    let message = Message::new(MESSAGE_A);
    assert_eq!(outcome("", &message), ["keep"]);
    assert_eq!(outcome("discard;", &message), [""; 0]);
    assert_eq!(outcome("discard; keep;", &message), ["keep"]);
    assert_eq!(outcome("stop; discard;", &message), ["keep"]);
    assert_eq!(outcome("redirect \"a@b.org\";", &message), ["redirect a@b.org"]);
    assert_eq!(
        outcome("require \"copy\"; redirect :copy \"a@b.org\"; redirect \"A@B.org\";", &message),
        ["redirect a@b.org"]
    );
    assert_eq!(outcome("require [\"copy\",\"fileinto\"]; fileinto :copy \"x\";", &message), ["fileinto x", "keep"]);
    assert_eq!(
        outcome("require \"fileinto\"; fileinto \"x\"; fileinto \"x\"; keep;", &message),
        ["fileinto x", "keep"]
    );
    assert_eq!(outcome("if true { stop; } discard;", &message), ["keep"]);
}

#[test]
fn errors_say_where_and_what() {
    for (script, expected) in [
        ("keep", "line 1, column 5: expected \";\" or a block, found the end of the script"),
        ("\n  foo;", "line 2, column 3: unknown command \"foo\""),
        ("if foo { keep; }", "line 1, column 4: unknown test \"foo\""),
        ("fileinto \"x\";", "line 1, column 1: expected require \"fileinto\" before \"fileinto\""),
        (
            "require \"fileinto\"; fileinto :copy \"x\";",
            "line 1, column 30: expected require \"copy\" before \":copy\"",
        ),
        ("require \"nope\";", "line 1, column 9: unknown extension \"nope\""),
        ("keep; require \"copy\";", "line 1, column 7: expected \"require\" before all other commands"),
        ("redirect \"nobody\";", "line 1, column 10: expected an address, found \"nobody\""),
        ("redirect;", "line 1, column 1: \"redirect\" expected an address, found nothing"),
        ("keep 5;", "line 1, column 6: \"keep\" takes no further 5"),
        ("keep :x;", "line 1, column 6: unknown tag \":x\": \"keep\" takes :flags"),
        ("if size 5 { }", "line 1, column 4: \"size\" expected one of :over and :under"),
        ("if header :is :contains \"a\" \"b\" { }", "line 1, column 4: \"header\" expected one match type"),
        (
            "if header :comparator \"i;x\" \"a\" \"b\" { }",
            "line 1, column 23: expected the comparator \"i;octet\", \"i;ascii-casemap\" or \"i;ascii-numeric\", found \"i;x\"",
        ),
        (
            "if address \"subject\" \"b\" { }",
            "line 1, column 12: expected a header field with addresses, found \"subject\"",
        ),
        ("if header \"a b\" \"b\" { }", "line 1, column 11: expected the name of a header field, found \"a b\""),
        ("if header [\"a\" \"b\"] \"c\" { }", "line 1, column 16: expected \",\" or \"]\", found a string"),
        ("else { }", "line 1, column 1: expected \"if\" before \"else\""),
        ("if true keep;", "line 1, column 9: expected \";\" or a block, found \"keep\""),
        ("\"x\"", "line 1, column 1: expected a command, found a string"),
        ("keep; é", "line 1, column 7: expected a command, a test or a string, found 'é'"),
        ("/* x", "line 1, column 1: expected \"*/\" after \"/*\""),
        ("redirect \"x", "line 1, column 10: expected '\"' at the end of this string"),
        ("if size :over 5T { }", "line 1, column 15: expected a number with at most K, M or G, found \"5t\""),
    ] {
        let error = refused(script);
        // "keep" as an argument of "true" is a test without its place.
        if script != "if true keep;" {
            assert_eq!(error, expected, "{script}");
        } else {
            assert!(error.starts_with("line 1, column"), "{error}");
        }
    }
}

#[test]
fn nesting_and_work_are_bounded() {
    let deep = format!("{}keep;{}", "if true {".repeat(100), "}".repeat(100));
    assert!(refused(&deep).contains("levels of nesting"));
    let deep = format!("if {} true {{ keep; }}", "not ".repeat(10_000));
    assert!(refused(&deep).contains("levels of nesting"));
    let evil = format!("if header :matches \"x\" \"*{}b\" {{ discard; }}", "a".repeat(400));
    let message = Message::new(&format!("X: {}\n\n", "a".repeat(100_000)));
    let script = Script::compile(&evil).expect("a script");
    assert_eq!(script.run(&message, Limits::default()), Err(Stop::Failed(RunError::TooLong)));
    let many: String = (0..5).map(|n| format!("redirect \"a{n}@b.org\";")).collect();
    assert_eq!(run(&many, &message), Err(Stop::Failed(RunError::TooManyRedirects(4))));
    let many: String = (0..40).map(|n| format!("fileinto \"{n}\";")).collect();
    assert_eq!(run(&format!("require \"fileinto\";{many}"), &message), Err(Stop::Failed(RunError::TooManyActions(32))));
}
