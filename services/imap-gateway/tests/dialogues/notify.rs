//! NOTIFY (RFC 5465): told without asking, and without IDLE.

use super::support::System;

const HI: &[u8] = b"From: alice@sender.com\r\nSubject: Hi\r\n\r\nhello\r\n";

#[tokio::test]
async fn new_mail_is_told_with_what_was_asked() {
    let system = System::start().await;
    let mut client = system.selected().await;
    client
        .play(
            "C: a NOTIFY SET (selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (Subject)]) MessageExpunge FlagChange))
             S: a OK …",
        )
        .await;
    system.fake.deliver(HI);
    client.play("S: * 1 EXISTS\nS: * 0 RECENT\nS: * 1 FETCH (UID 1 BODY[HEADER.FIELDS (Subject)] {15}").await;
    assert_eq!(client.exactly(15).await, b"Subject: Hi\r\n\r\n");
    client.play("S: )").await;
    system.fake.flag(1, 4);
    client.play("S: * 1 FETCH (UID 1 FLAGS (\\Flagged))").await;
    system.fake.remove(1);
    client.play("S: * 1 EXPUNGE").await;
    // From now on only who asks is told.
    client.play("C: b NOTIFY NONE\nS: b OK …").await;
    system.fake.deliver(HI);
    client.play("C: c NOOP\nS: * 1 EXISTS\nS: * 0 RECENT\nS: c OK …").await;
}

#[tokio::test]
async fn what_is_expunged_waits_when_the_client_wants_it() {
    let system = System::start().await;
    system.fake.deliver(HI);
    let mut client = system.selected().await;
    client.play("C: a NOTIFY SET (selected-delayed (MessageNew MessageExpunge))\nS: a OK …").await;
    system.fake.remove(1);
    system.fake.deliver(HI);
    client.play("S: * 2 EXISTS\nS: * 0 RECENT\nC: b NOOP\nS: * 1 EXPUNGE\nS: b OK …").await;
}

#[tokio::test]
async fn other_mailboxes_are_told_by_their_state_and_name() {
    let system = System::start().await;
    let mut client = system.connect().await;
    client
        .play(
            "C: l LOGIN bob secret
             S: l OK …
             C: a NOTIFY SET STATUS (mailboxes Trash NONE) (inboxes (MessageNew MessageExpunge)) (personal (MailboxName))
             S: * STATUS \"INBOX\" (MESSAGES 0 UIDNEXT 1 UIDVALIDITY 7 UNSEEN 0)
             S: a OK …",
        )
        .await;
    system.fake.deliver(HI);
    client.play("S: * STATUS \"INBOX\" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 7 UNSEEN 1)").await;
    let mut other = system.connect().await;
    other.play("C: l LOGIN bob secret\nS: l OK …\nC: a CREATE New\nS: a OK …").await;
    client.play("S: * LIST (\\Subscribed) \"/\" \"New\"").await;
    other.play("C: b RENAME New Old\nS: b OK …").await;
    client.play("S: * LIST () \"/\" \"Old\" (\"OLDNAME\" (\"New\"))").await;
    other.play("C: c DELETE Old\nS: c OK …").await;
    client.play("S: * LIST (\\NonExistent) \"/\" \"Old\"").await;
    client
        .play(
            "C: b NOTIFY SET (personal (AnnotationChange))
             S: b NO [BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange)] …
             C: c NOTIFY SET (selected (MessageNew))
             S: c BAD …",
        )
        .await;
}

#[tokio::test]
async fn idle_tells_it_too() {
    let system = System::start().await;
    let mut client = system.connect().await;
    client.play("C: l LOGIN bob secret\nS: l OK …\nC: a SELECT Sent").await;
    client.until("a OK").await;
    client.play("C: b NOTIFY SET (inboxes (MessageNew MessageExpunge))\nS: b OK …\nC: c IDLE\nS: + idling").await;
    system.fake.deliver(HI);
    client.play("S: * STATUS \"INBOX\" (MESSAGES 1 …\nC: DONE\nS: c OK …").await;
}
