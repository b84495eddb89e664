-- DMARC: aggregate reports (RFC 9990) that we owe and that we got, and a tenant's own mind.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on tenants for a column with a constant default.

-- Mail that DMARC would refuse goes to Junk.
alter table tenants add column dmarc_quarantine boolean not null default false;

-- Verdicts by policy domain and what a report tells of them, of days (UTC) not reported yet.
create table dmarc_results (
    day date not null,
    domain text not null, -- where the policy was found
    key text not null, -- of the row, which is too long for an index
    row text not null, -- JSON
    messages bigint not null,
    primary key (day, domain, key)
);

create table dmarc_reports (
    day date not null,
    domain text not null,
    claimed_until timestamptz not null,
    done boolean not null default false,
    primary key (day, domain)
);

-- Reports from others about our domains: DMARC (RFC 9990) and TLS (RFC 8460).
create table received_reports (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('dmarc', 'tls')),
    organisation text not null,
    report_id text not null,
    domain text not null,
    begin_at timestamptz not null,
    end_at timestamptz not null,
    good bigint not null, -- messages that passed; sessions that succeeded
    bad bigint not null,
    detail text not null, -- JSON
    received_at timestamptz not null default now(),
    unique (kind, organisation, report_id, domain)
);
create index received_reports_by_domain on received_reports (domain, end_at);
create index received_reports_by_time on received_reports (received_at);

-- How far the INBOX of an account that takes reports was read.
create table report_cursors (
    account_id bigint primary key,
    mailbox_id bigint not null,
    uid bigint not null
);
