//! The HTTP API, version 1.

mod accounts;
mod aliases;
mod domains;
mod follow;
mod letters;
pub mod messages;
mod quarantine;
mod queue;
mod records;
mod reports;
mod tenants;
mod tokens;

use axum::http::Method;

use crate::{
    caller::Access::{Anybody, Look, Manage, Operate},
    route::{Route, route},
    session,
};

/// Every route, who may call it, and what answers.
pub fn routes() -> Vec<Route> {
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    vec![
        route(get.clone(), "/about", ("about", "What must be known before login"), Anybody, session::about),
        route(post.clone(), "/session", ("logIn", "Begin a session with a token"), Anybody, session::log_in),
        route(get.clone(), "/session", ("whoAmI", "Who is logged in"), Look, session::show),
        route(delete.clone(), "/session", ("logOut", "End the session"), Look, session::log_out),
        // ---- messages
        route(get.clone(), "/messages", ("findMessages", "Find messages, newest first"), Look, messages::find),
        route(post.clone(), "/messages", ("sendMessage", "Send a message over real SMTP"), Look, letters::send),
        route(get.clone(), "/messages/{queue_id}", ("showJourney", "The journey of a message"), Look, messages::show),
        route(
            get.clone(),
            "/messages/{queue_id}/events",
            ("followJourney", "The journey as it happens, as server-sent events"),
            Look,
            follow::follow,
        ),
        route(
            get.clone(),
            "/messages/{queue_id}/records",
            ("showRecords", "The DNS records that its verdict rests on, as they are published now"),
            Look,
            records::show,
        ),
        // ---- queue
        route(
            get.clone(),
            "/queue",
            ("listQueue", "Deliveries without a final state, oldest first"),
            Look,
            queue::list,
        ),
        route(
            post.clone(),
            "/queue/{queue_id}",
            ("changeQueue", "Hold, release, retry or bounce what is open of a message"),
            Manage,
            queue::change,
        ),
        route(get.clone(), "/destinations", ("listPaused", "Destinations that are paused"), Operate, queue::paused),
        route(put.clone(), "/destinations/{domain}", ("pause", "Deliver nothing to a domain"), Operate, queue::pause),
        route(delete.clone(), "/destinations/{domain}", ("resume", "Deliver to it again"), Operate, queue::resume),
        // ---- quarantine
        route(
            get.clone(),
            "/quarantine",
            ("listQuarantine", "Mail that was sent to Junk and is still there, newest first"),
            Look,
            quarantine::list,
        ),
        route(
            post.clone(),
            "/quarantine/{queue_id}",
            ("changeQuarantined", "Release a message into INBOX"),
            Manage,
            quarantine::change,
        ),
        // ---- reports of others
        route(get.clone(), "/reports", ("listReports", "DMARC and TLS reports, newest first"), Look, reports::list),
        route(
            get.clone(),
            "/reports/over-time",
            ("showReportsOverTime", "DMARC or TLS reports added up by day, and the hosts they name"),
            Look,
            reports::over_time,
        ),
        // ---- directory
        route(get.clone(), "/tenants", ("listTenants", "Tenants"), Operate, tenants::list),
        route(post.clone(), "/tenants", ("createTenant", "Make a tenant"), Operate, tenants::create),
        route(get.clone(), "/domains", ("listDomains", "Domains"), Look, domains::list),
        route(post.clone(), "/domains", ("createDomain", "Accept mail for a domain"), Operate, domains::create),
        route(
            get.clone(),
            "/domains/{domain}",
            ("showDomain", "What to publish in the DNS, and what is published"),
            Look,
            domains::show,
        ),
        route(
            delete.clone(),
            "/domains/{domain}",
            ("deleteDomain", "Remove an empty domain"),
            Operate,
            domains::delete,
        ),
        route(get.clone(), "/accounts", ("listAccounts", "Accounts"), Look, accounts::list),
        route(post.clone(), "/accounts", ("createAccount", "Make an account"), Manage, accounts::create),
        route(
            put.clone(),
            "/accounts/{address}",
            ("changeAccount", "Set a password or quota, disable or enable"),
            Manage,
            accounts::change,
        ),
        route(
            delete.clone(),
            "/accounts/{address}",
            ("deleteAccount", "Remove an account and all its mail"),
            Manage,
            accounts::delete,
        ),
        route(get.clone(), "/aliases", ("listAliases", "Aliases"), Look, aliases::list),
        route(put, "/aliases/{address}", ("setAlias", "Make an alias, or give it other targets"), Manage, aliases::set),
        route(delete.clone(), "/aliases/{address}", ("deleteAlias", "Remove an alias"), Manage, aliases::delete),
        // ---- who may do all that
        route(get, "/tokens", ("listTokens", "Tokens"), Manage, tokens::list),
        route(post, "/tokens", ("createToken", "Make a token; its secret is told once"), Manage, tokens::create),
        route(delete, "/tokens/{id}", ("revokeToken", "End a token and its sessions"), Manage, tokens::revoke),
    ]
}
