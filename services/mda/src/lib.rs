//! The message delivery agent: storage writer and sole owner of Postgres.
//!
//! Role: Spool, Directory, Mailboxes, Admin and Journey over gRPC; local delivery; the dispatcher.
//! Ports: gRPC (`listen`). Peers: Postgres, Redis. Scales with the roles it is given.
//!
//! Invariants kept here: 1 ([`spool`]: Accept), 2 ([`dispatcher`]), 3 ([`delivery`]),
//! 4 ([`spool`]: Claim and Settle), 5 ([`mailboxes`]), 6 ([`spool`]: Settle, [`bounce`]).

pub mod admin;
pub mod bounce;
pub mod config;
pub mod console;
pub mod content;
pub mod database;
pub mod delivery;
pub mod directory;
pub mod dispatcher;
pub mod egress;
pub mod forward;
pub mod ids;
pub mod journey;
pub mod mailboxes;
pub mod maintenance;
pub mod metrics;
pub mod objects;
pub mod received;
pub mod relay;
pub mod reports;
pub mod rules;
pub mod set_aside;
pub mod sign;
pub mod spool;
pub mod srs;
pub mod storage;
pub mod tenants;
pub mod vault;
pub mod wakes;

use std::sync::Arc;

use anyhow::Context as _;
pub use config::Config;
use config::Role;
use proto::{
    MAX_GRPC_MESSAGE,
    admin::admin_server::AdminServer,
    console::console_server::ConsoleServer,
    directory::directory_server::DirectoryServer,
    journey::journey_server::JourneyServer,
    mailboxes::mailboxes_server::MailboxesServer,
    relay::{egress_server::EgressServer, relay_server::RelayServer},
    report::reports_server::ReportsServer,
    rules::rules_server::RulesServer,
    spool::spool_server::SpoolServer,
};
use queue::{Consumer, Producer, Stream};
use sqlx::PgPool;
use tonic::service::Routes;
use uuid::Uuid;

use crate::{
    bounce::Bouncer,
    directory::throttle::Throttle,
    dispatcher::Dispatch,
    forward::{Ages, Forwarder},
    journey::days::Retention,
    metrics::Metrics,
    objects::Objects,
    spool::Accepting,
    vault::Vault,
    wakes::WakeHub,
};

/// What the roles of one process share.
struct Parts {
    pool: PgPool,
    wakes: WakeHub,
    dispatch: Dispatch,
    bouncer: Bouncer,
    rules: rules::Runner,
    turns: queue::Turns,
    throttle: Throttle,
    forwarder: Forwarder,
    vault: Arc<Vault>,
    metrics: Metrics,
    objects: Objects,
}

pub async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()> {
    if config.migrate_only {
        return migrate(&config, &service).await;
    }
    let (metrics, object_metrics) = service.metrics(|registry| {
        queue::register(registry);
        (Metrics::register(registry, config.tenants_counted), objects::Metrics::register(registry))
    });
    let redis = config.redis_url.clone().context("configuration key \"redis_url\" is missing")?;
    let pool = database::pool(&config)?;
    let objects = Objects::new(pool.clone(), &config.content_store, object_metrics).map_err(anyhow::Error::msg)?;
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("configuration key \"listen\" = {}: cannot listen", config.listen))?;
    tokio::select! {
        migrated = database::migrate(&pool) => migrated.context("migrations")?,
        () = service.shutdown.cancelled() => return Ok(()),
    }
    let dispatch = Dispatch::new(Producer::new(&redis), config.stream_bound, config.redispatch_seconds);
    let wakes = WakeHub::new(&redis);
    let vault = Arc::new(Vault::new(&config.encryption_keys));
    if !vault.is_open() {
        let sealed = vault::seal_old(&pool, &vault).await.map_err(|e| anyhow::anyhow!("private keys: {e}"))?;
        tracing::info!(keys = sealed, "private keys encrypted");
    }
    let ages = Ages { rotate_days: config.srs_rotate_days, max_days: config.srs_max_days };
    let forwarder = Forwarder::new(pool.clone(), ages, metrics.clone());
    let accepting = Accepting::new(pool.clone(), dispatch.clone(), metrics.clone(), forwarder.clone(), objects.clone());
    let bouncer = Bouncer {
        pool: pool.clone(),
        accepting: accepting.clone(),
        hostname: config.hostname.clone(),
        metrics: metrics.clone(),
        signer: sign::Signer::new(config.auth_checker.as_ref()),
        successes: Default::default(),
        forwarder: forwarder.clone(),
    };
    let rules = rules::Runner::new(&config, bouncer.clone(), accepting.clone(), wakes.clone());
    let rates = queue::Rates::new(&redis);
    let throttle = Throttle { rates, config: config.login_backoff, metrics: metrics.clone() };
    let turns = queue::Turns::new(&redis);
    let parts = Parts {
        pool: pool.clone(),
        wakes,
        dispatch,
        bouncer,
        rules,
        turns,
        throttle,
        forwarder,
        vault,
        metrics,
        objects,
    };

    let hub = parts.wakes.clone();
    let watch = tokio::spawn(storage::watch(pool.clone(), parts.metrics.clone(), service.shutdown.clone()));
    let wake_watch = tokio::spawn(queue::watch_wakes(redis.clone(), move |account| hub.wake(account)));
    let (hub, shutdown) = (parts.wakes.clone(), service.shutdown.clone());
    tokio::spawn(async move {
        shutdown.cancelled().await;
        hub.close();
    });
    let workers =
        if config.has(Role::Delivery) { start_delivery(&config, &redis, &parts, &service) } else { Vec::new() };

    let routes = routes(&config, &parts, accepting);
    service.ready();
    runtime::grpc::serve(listener, routes, service.shutdown.clone()).await?;
    for worker in workers {
        worker.await?;
    }
    wake_watch.abort();
    watch.await?;
    pool.close().await;
    Ok(())
}

/// The schema alone (`migrate_only`). Postgres's advisory lock makes several of us take turns.
async fn migrate(config: &Config, service: &runtime::Service) -> anyhow::Result<()> {
    let pool = database::pool(config)?;
    tokio::select! {
        migrated = database::migrate(&pool) => migrated.context("migrations")?,
        () = service.shutdown.cancelled() => anyhow::bail!("stopped before the migrations were done"),
    }
    pool.close().await;
    tracing::info!("schema is up to date");
    Ok(())
}

/// One worker a process: what a client sent in an order comes in that order, and what arrives
/// during one commit is the next batch anyway.
fn start_delivery(
    config: &Config,
    redis: &queue::Url,
    parts: &Parts,
    service: &runtime::Service,
) -> Vec<tokio::task::JoinHandle<()>> {
    let worker = delivery::Worker {
        pool: parts.pool.clone(),
        consumer: Consumer::new(redis, Stream::Local, format!("mda-{}", Uuid::now_v7()), delivery::BATCH),
        wakes: parts.wakes.clone(),
        bouncer: parts.bouncer.clone(),
        rules: parts.rules.clone(),
        metrics: parts.metrics.clone(),
    };
    let worker = tokio::spawn(worker.run(service.shutdown.clone()));
    let retention = Retention { days: config.journey_days, dialogue_days: config.journey_dialogue_days };
    let expunged_days = config.expunged_days;
    let (pool, metrics, shutdown) = (parts.pool.clone(), parts.metrics.clone(), service.shutdown.clone());
    let dispatcher =
        tokio::spawn(dispatcher::run(pool.clone(), parts.dispatch.clone(), metrics.clone(), shutdown.clone()));
    let reports = tokio::spawn(parts.bouncer.clone().report_successes(shutdown.clone()));
    let received = received::Reader {
        pool: pool.clone(),
        accounts: config.report_accounts.iter().map(|a| a.to_lowercase()).collect(),
        days: config.report_days,
        metrics: metrics.clone(),
        objects: parts.objects.clone(),
    };
    let received = tokio::spawn(received.run(shutdown.clone()));
    let sweep = tokio::spawn(objects::run(parts.objects.clone(), shutdown.clone()));
    let forwarder = parts.forwarder.clone();
    let maintenance = tokio::spawn(maintenance::run(pool, retention, expunged_days, metrics, forwarder, shutdown));
    vec![worker, dispatcher, reports, maintenance, received, sweep]
}

fn routes(config: &Config, parts: &Parts, accepting: Accepting) -> Routes {
    let passwords = directory::Passwords::default();
    let pool = || parts.pool.clone();
    let mut routes = Routes::builder();
    // Relays ask for it, an operator sets it.
    if config.has(Role::Spool) || config.has(Role::Admin) {
        routes.add_service(EgressServer::new(egress::Egress { pool: pool() }));
    }
    if config.has(Role::Spool) {
        let spool = spool::Spool { pool: pool(), accepting, max_message_size: config.max_message_size };
        routes.add_service(SpoolServer::new(spool));
        routes.add_service(RelayServer::new(relay::Relay { pool: pool() }));
        routes.add_service(ReportsServer::new(reports::Reports { pool: pool() }));
    }
    if config.has(Role::Directory) {
        let directory = directory::Directory {
            pool: pool(),
            passwords: passwords.clone(),
            throttle: parts.throttle.clone(),
            issuer: config.oidc.clone().map(directory::issuer::Issuer::new),
            forwarder: parts.forwarder.clone(),
            vault: parts.vault.clone(),
        };
        routes.add_service(DirectoryServer::new(directory));
    }
    if config.has(Role::Mailboxes) {
        let mailboxes = mailboxes::Mailboxes {
            pool: pool(),
            appends: mailboxes::appending(pool()),
            objects: parts.objects.clone(),
            wakes: parts.wakes.clone(),
            max_message_size: config.max_message_size,
            memory: mailboxes::Memory::new(config.memory_bytes),
        };
        routes.add_service(MailboxesServer::new(mailboxes).max_encoding_message_size(MAX_GRPC_MESSAGE));
    }
    if config.has(Role::Mailboxes) || config.has(Role::Admin) {
        routes.add_service(RulesServer::new(rules::Service { pool: pool(), config: config.sieve.clone() }));
    }
    if config.has(Role::Admin) {
        let admin = admin::Admin {
            pool: pool(),
            passwords,
            bouncer: parts.bouncer.clone(),
            turns: parts.turns.clone(),
            vault: parts.vault.clone(),
            wakes: parts.wakes.clone(),
            metrics: parts.metrics.clone(),
        };
        routes.add_service(AdminServer::new(admin));
        routes.add_service(ConsoleServer::new(console::Console { pool: pool() }));
    }
    if config.has(Role::Journey) {
        routes.add_service(JourneyServer::new(journey::Journey { pool: pool() }));
    }
    routes.routes()
}
