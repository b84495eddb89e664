-- The first schema: directory, mailboxes, spool, journey.
-- Phase: expand. Lock: none, everything is new.

-- ---------------------------------------------------------------- directory

create table tenants (
    id bigint generated always as identity primary key,
    name text not null unique
);
insert into tenants (name) values ('default');

create table domains (
    name text primary key, -- lower case
    tenant_id bigint not null references tenants
);

create table dkim_keys (
    domain text not null references domains on delete cascade,
    selector text not null,
    algorithm text not null check (algorithm in ('rsa', 'ed25519')),
    private_key bytea not null, -- PKCS#8
    public_key text not null, -- base64, as p= has it (RFC 6376 §3.6.1)
    primary key (domain, selector)
);

create table accounts (
    id bigint generated always as identity primary key,
    tenant_id bigint not null references tenants,
    domain text not null references domains,
    address text not null unique, -- lower case
    password text not null, -- Argon2id in PHC form
    disabled boolean not null default false,
    quota_bytes bigint not null default 0, -- 0: no limit
    created_at timestamptz not null default now()
);
create index accounts_by_domain on accounts (domain);

create table aliases (
    address text primary key, -- lower case
    domain text not null references domains,
    targets text[] not null
);
create index aliases_by_domain on aliases (domain);

-- ---------------------------------------------------------------- content

-- A message's bytes, once, whoever refers to them: mailbox rows and open deliveries.
create table contents (
    id uuid primary key, -- the queue id, or one of its own for APPEND
    size integer not null, -- of header and body together, before compression
    header bytea not null, -- zstd; up to and with the empty line
    body bytea not null, -- zstd
    structure bytea not null -- postroad.mailboxes.v1.Structure
);
-- Compressed already: Postgres need not try again.
alter table contents
    alter column header set storage external,
    alter column body set storage external,
    alter column structure set storage external;

-- Contents that lost a reference: the reclaimer looks whether it was the last.
create table released (
    id bigint generated always as identity primary key,
    content_id uuid not null
);

-- ---------------------------------------------------------------- mailboxes

-- Unique for ever, so that a mailbox that is made again under an old name is seen to be
-- another one (RFC 9051 §2.3.1.1).
create sequence uid_validity minvalue 1 maxvalue 4294967295;

create table mailboxes (
    account_id bigint not null,
    id bigint generated always as identity,
    name text not null, -- UTF-8, '/' between levels
    special_use text not null default '', -- RFC 6154
    subscribed boolean not null default true,
    uid_validity bigint not null default nextval('uid_validity'),
    uid_next bigint not null default 1,
    highest_modseq bigint not null default 1,
    messages integer not null default 0,
    unseen integer not null default 0,
    deleted integer not null default 0,
    size bigint not null default 0,
    primary key (account_id, id),
    unique (account_id, name)
) with (fillfactor = 50); -- counters change with every delivery: keep those updates in the page

create table messages (
    account_id bigint not null,
    mailbox_id bigint not null,
    uid bigint not null,
    modseq bigint not null,
    content_id uuid not null,
    internal_date timestamptz not null,
    size integer not null,
    flags smallint not null default 0, -- 1 Seen, 2 Answered, 4 Flagged, 8 Deleted, 16 Draft
    keywords text[] not null default '{}',
    primary key (account_id, mailbox_id, uid)
) with (fillfactor = 90);
create index messages_by_modseq on messages (account_id, mailbox_id, modseq);
create index messages_by_content on messages (content_id);

-- What a client that was away must be told is gone (RFC 7162 §3.2.5).
create table expunged (
    account_id bigint not null,
    mailbox_id bigint not null,
    modseq bigint not null,
    uid bigint not null,
    primary key (account_id, mailbox_id, modseq, uid)
);

-- POP3's exclusive access (RFC 1939 §4).
create table maildrop_locks (
    account_id bigint primary key,
    token text not null,
    until timestamptz not null
);

-- ---------------------------------------------------------------- spool

-- A message that was accepted. Stays as the head of its journey, and so that an Accept that
-- is tried again is known.
create table spool (
    queue_id uuid primary key,
    reverse_path text not null, -- '' is the null reverse-path
    account_id bigint not null, -- who submitted it; 0: from outside
    message_id text not null, -- '' when it has none
    envid text not null,
    ret text not null,
    traceparent text not null,
    size integer not null,
    eight_bit boolean not null,
    smtputf8 boolean not null,
    junk boolean not null,
    accepted_at timestamptz not null default now()
);
create index spool_by_message_id on spool (message_id) where message_id <> '';
create index spool_by_time on spool (accepted_at);

-- Open deliveries only: settling one deletes it in the transaction that tells its end.
create table deliveries (
    queue_id uuid not null,
    number integer not null,
    recipient text not null, -- forward-path as the client gave it
    account_id bigint, -- into this account's mailbox, or else:
    remote text, -- to this forward-path
    notify text not null,
    orcpt text not null,
    attempts integer not null default 0,
    not_before timestamptz not null default now(),
    due_at timestamptz not null, -- when the dispatcher hands it out (again)
    lease_token uuid,
    lease_until timestamptz,
    held boolean not null default false,
    last_text text not null default '',
    primary key (queue_id, number),
    check ((account_id is null) <> (remote is null))
) with (fillfactor = 80);
create index deliveries_due on deliveries (due_at) where not held;

-- ---------------------------------------------------------------- journey

create table journey (
    id bigint generated always as identity,
    queue_id uuid not null,
    at timestamptz not null default clock_timestamp(),
    name text not null,
    service text not null,
    recipient text not null,
    text text not null,
    detail text not null, -- a JSON object, or ''
    primary key (queue_id, id)
);
create index journey_by_time on journey (at);
