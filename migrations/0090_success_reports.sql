-- Reports of success that were promised with a delivery into a mailbox (RFC 3461, NOTIFY=SUCCESS):
-- written with the delivery, removed when the report is accepted. Empty but for moments.
-- Phase: expand. Lock: none, the table is new.

create table success_reports (
    queue_id uuid not null,
    number integer not null,
    recipient text not null,
    orcpt text not null,
    mailbox text not null,
    delivered_at timestamptz not null default now(),
    primary key (queue_id, number)
);
