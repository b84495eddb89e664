-- Rights of others in a mailbox (RFC 4314), and which of those mailboxes they are subscribed to.
-- Phase: expand. Lock: none, everything is new.

create table mailbox_rights (
    account_id bigint not null, -- the owner
    mailbox_id bigint not null,
    grantee_id bigint not null, -- an account; 0: anyone in the owner's tenant
    rights text not null, -- letters of RFC 4314 section 2.1, never empty
    primary key (account_id, mailbox_id, grantee_id)
);
create index mailbox_rights_by_grantee on mailbox_rights (grantee_id);

create table shared_subscriptions (
    account_id bigint not null, -- who is subscribed
    owner_id bigint not null,
    mailbox_id bigint not null,
    primary key (account_id, owner_id, mailbox_id)
);
create index shared_subscriptions_by_mailbox on shared_subscriptions (owner_id, mailbox_id);
