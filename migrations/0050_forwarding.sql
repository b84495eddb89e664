-- What forwarding needs (SRS): a reverse-path of its own for a delivery, and the keys of those that
-- we hand out.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on deliveries, no table is rewritten.

-- Instead of the message's; null for all that are no forwards.
alter table deliveries add column reverse_path text;

-- The newest signs, all of them check; old ones are removed when what they signed has expired.
create table srs_keys (
    id bigint generated always as identity primary key,
    key bytea not null,
    created_at timestamptz not null default now()
);

-- Reverse-paths that do not fit into the 64 octets of a local part (RFC 5321 §4.5.3.1.1).
create table srs_kept (
    token text primary key,
    reverse_path text not null,
    used_at timestamptz not null default now()
);
create index srs_kept_by_time on srs_kept (used_at);
