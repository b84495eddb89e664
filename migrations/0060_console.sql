-- Who may use the console: tokens of programs and people, and sessions of browsers.
-- Phase: expand. Lock: none, everything is new.

create table console_tokens (
    id uuid primary key,
    name text not null,
    -- SHA-256: the secret has 256 random bits, so nothing slower is needed.
    hash bytea not null unique,
    role text not null check (role in ('operator', 'tenant-admin', 'support')),
    tenant_id bigint references tenants on delete cascade, -- null: all tenants
    session boolean not null default false,
    parent_id uuid references console_tokens on delete cascade, -- the token that a session began with
    created_at timestamptz not null default now(),
    expires_at timestamptz, -- null: never
    last_used_at timestamptz,
    check (role <> 'tenant-admin' or tenant_id is not null),
    check (role <> 'operator' or tenant_id is null)
);
create index console_tokens_by_parent on console_tokens (parent_id) where parent_id is not null;
