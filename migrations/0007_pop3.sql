-- What POP3's DELE means and which messages it shows, by account; unique-ids brought along from
-- another server.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on accounts and messages, no table is rewritten; the
-- index has no rows yet, but reads messages once.

alter table accounts
    add column pop3_dele text not null default 'expunge' check (pop3_dele in ('expunge', 'trash')),
    add column pop3_show text not null default 'all' check (pop3_show in ('all', 'undeleted', 'unseen'));

-- RFC 1939 §7; null: made of UIDVALIDITY and UID. COPY and MOVE leave it behind.
alter table messages add column uidl text;
create index messages_by_uidl on messages (account_id, mailbox_id, uidl) where uidl is not null;
