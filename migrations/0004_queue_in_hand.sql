-- The queue in an operator's hand, and what relays share: paused destinations, MTA-STS policies,
-- TLS results.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on deliveries for the column; SHARE on it while the
-- index is built (it holds open deliveries only).

-- The sender has been told about the delay (RFC 3464).
alter table deliveries add column delay_reported boolean not null default false;

create index deliveries_by_domain on deliveries (lower(split_part(coalesce(remote, recipient), '@', -1)));

-- Nothing is claimed for these until they are resumed.
create table paused_destinations (
    domain text primary key, -- lower case
    reason text not null,
    paused_at timestamptz not null default now()
);

-- Nothing is handed out for these until then: relays found that they do not answer. Unlogged:
-- forgetting them costs some attempts (Invariant 2).
create unlogged table resting_destinations (
    domain text primary key, -- lower case
    until timestamptz not null
);

-- RFC 8461 §3.2: what was fetched, until max_age is over.
create table sts_policies (
    domain text primary key, -- lower case, A-labels
    id text not null,
    policy text not null,
    fetched_at timestamptz not null,
    expires_at timestamptz not null
);

-- RFC 8460: sessions by policy and failure, of days (UTC) that are not reported yet.
create table tls_results (
    day date not null,
    domain text not null,
    key text not null, -- of policy and failure, which are too long for an index
    policy text not null, -- JSON
    failure text not null, -- JSON; '' for successes
    successful bigint not null,
    failed bigint not null,
    primary key (day, domain, key)
);

create table tls_reports (
    day date not null,
    domain text not null,
    claimed_until timestamptz not null,
    done boolean not null default false,
    primary key (day, domain)
);
