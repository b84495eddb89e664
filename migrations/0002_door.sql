-- What the front door needs: SCRAM verifiers, held and prioritised messages, REQUIRETLS.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on accounts, spool and deliveries; constant
-- defaults rewrite no row.

-- RFC 5802 §3: 'SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey'; '' until the password is
-- next set or used in the clear.
alter table accounts add column scram text not null default '';
-- Recipients in a day; 0: as the services are configured.
alter table accounts add column daily_recipients bigint not null default 0;

-- Secrets that all pods share and nobody else knows.
create table secrets (
    name text primary key,
    value bytea not null
);
-- What unknown accounts' salts are made from, so that they look like any other.
insert into secrets (name, value)
values ('scram', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

alter table spool
    add column require_tls boolean not null default false, -- RFC 8689
    add column priority smallint not null default 0; -- RFC 6710: -9 to 9
