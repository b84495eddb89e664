-- Groups, catch-all, send-only accounts, app passwords; what belongs to one tenant cannot come to
-- refer to another.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on domains, accounts and aliases; the new foreign
-- keys are taken as not valid and validated after it, which only holds SHARE UPDATE EXCLUSIVE.

-- In the order of the directory's questions.
lock table domains, accounts, aliases in access exclusive mode;

-- It may log in to submit, and takes no mail.
alter table accounts add column send_only boolean not null default false;
-- 'group': its members get its mail and cannot send as it.
alter table aliases add column kind text not null default 'alias' check (kind in ('alias', 'group'));
-- Takes what is addressed to '@domain': kept as an alias of that name.

create unique index domains_of_tenant on domains (name, tenant_id);
alter table accounts add constraint accounts_in_tenant
    foreign key (domain, tenant_id) references domains (name, tenant_id) not valid;
alter table accounts validate constraint accounts_in_tenant;
alter table accounts add constraint accounts_in_domain check (split_part(address, '@', -1) = domain) not valid;
alter table aliases add constraint aliases_in_domain check (split_part(address, '@', -1) = domain) not valid;

-- Random and long, so that one fast digest keeps them.
create table app_passwords (
    account_id bigint not null references accounts on delete cascade,
    id bigint generated always as identity,
    name text not null,
    digest bytea not null, -- SHA-256
    services text[] not null, -- smtp, imap, pop3
    created_at timestamptz not null default now(),
    used_at timestamptz, -- within a day
    primary key (account_id, id),
    unique (account_id, digest)
);
