-- What IMAP's extensions need: \Recent for IMAP4rev1, SAVEDATE, METADATA, size of what is deleted.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on mailboxes and messages, no table is rewritten.

-- UIDs from here on were told to no session yet (RFC 3501 §2.3.2).
alter table mailboxes add column recent_uid bigint not null default 1;

-- When the message came into this mailbox (RFC 8514); null for those that were there before.
alter table messages add column saved_at timestamptz;
alter table messages alter column saved_at set default now();

-- Annotations (RFC 5464); mailbox 0 stands for the account's own.
create table metadata (
    account_id bigint not null,
    mailbox_id bigint not null,
    entry text not null, -- lower case
    value bytea not null,
    primary key (account_id, mailbox_id, entry)
);
