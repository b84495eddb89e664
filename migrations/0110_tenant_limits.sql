-- What a tenant may have, and a domain's own mind about DMARC.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on tenants and domains; constant defaults rewrite no row.

alter table tenants
    add column max_accounts bigint not null default 0, -- 0: no limit
    add column daily_recipients bigint not null default 0; -- of each account without its own; 0: as the services are configured

-- Mail that DMARC would refuse goes to Junk, or not, whatever the tenant has; null: as the tenant has it.
alter table domains add column dmarc_quarantine boolean;
