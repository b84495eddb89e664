-- Addresses that mail of some tenants leaves from.
-- Phase: expand. Lock: none, the tables are new (a brief SHARE ROW EXCLUSIVE on tenants for the
-- foreign key).

create table egress_pools (
    name text primary key,
    addresses text[] not null,
    hostnames text[] not null -- of the addresses, in their order; '' is the relay's own
);

create table egress_tenants (
    tenant_id bigint primary key references tenants on delete cascade,
    pool text not null references egress_pools on delete cascade
);
create index egress_tenants_by_pool on egress_tenants (pool);
