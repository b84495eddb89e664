-- What accounts have done with their mail: Sieve scripts, vacation, forward, and what those remember.
-- Phase: expand. Lock: none, everything is new.

create table sieve_scripts (
    account_id bigint not null references accounts on delete cascade,
    name text not null,
    script text not null,
    changed_at timestamptz not null default now(),
    primary key (account_id, name)
);

-- A row for each account that ever set something; local delivery looks whether there is an active one.
create table rules (
    account_id bigint primary key references accounts on delete cascade,
    script text not null default '', -- the active one's name; '': none
    vacation_on boolean not null default false,
    vacation_subject text not null default '', -- '': made from the message's
    vacation_text text not null default '',
    vacation_days integer not null default 0, -- 0: a week
    vacation_from timestamptz,
    vacation_until timestamptz,
    forward_to text[] not null default '{}',
    forward_keep boolean not null default true,
    is_active boolean not null generated always as (script <> '' or vacation_on or forward_to <> '{}') stored
);

-- Who was answered (RFC 5230 §4.2).
create table vacation_answers (
    account_id bigint not null,
    key text not null, -- a digest of answer and sender
    until timestamptz not null,
    primary key (account_id, key)
);
create index vacation_answers_by_end on vacation_answers (until);

-- Ids that `duplicate` tests know (RFC 7352).
create table sieve_tracked (
    account_id bigint not null,
    key text not null, -- a digest
    until timestamptz not null,
    primary key (account_id, key)
);
create index sieve_tracked_by_end on sieve_tracked (until);
