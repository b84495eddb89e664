use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Command {
    name: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Login {
    outcome: &'static str,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    commands: Family<Command, Counter>,
    logins: Family<Login, Counter>,
    manage: Family<Command, Counter>,
    sessions: Gauge,
    idle: Gauge,
    pub fetched: Counter,
    pub appended: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("imap_commands", "Commands by name and outcome", metrics.commands.clone());
        registry.register("managesieve_commands", "ManageSieve commands by outcome", metrics.manage.clone());
        registry.register("imap_logins", "Logins by outcome", metrics.logins.clone());
        registry.register("imap_sessions", "Sessions that are logged in", metrics.sessions.clone());
        registry.register("imap_sessions_idle", "Sessions in IDLE", metrics.idle.clone());
        registry.register("imap_messages_fetched", "FETCH responses sent", metrics.fetched.clone());
        registry.register("imap_messages_appended", "Messages stored by APPEND", metrics.appended.clone());
        metrics
    }

    /// `outcome`: ok, no, bad or gone.
    pub fn command(&self, name: &'static str, outcome: &'static str) {
        self.commands.get_or_create(&Command { name, outcome }).inc();
    }

    /// `outcome`: ok or no.
    pub fn manage(&self, name: &'static str, outcome: &'static str) {
        self.manage.get_or_create(&Command { name, outcome }).inc();
    }

    /// `outcome`: success, credentials or unavailable.
    pub fn login(&self, outcome: &'static str) {
        self.logins.get_or_create(&Login { outcome }).inc();
    }

    pub fn active_sessions(&self) -> u32 {
        u32::try_from(self.sessions.get()).unwrap_or_default()
    }

    /// Counts until the value is dropped.
    pub fn logged_in(&self) -> Counted {
        Counted::new(&self.sessions)
    }

    /// Counts until the value is dropped.
    pub fn idling(&self) -> Counted {
        Counted::new(&self.idle)
    }
}

/// One of what a gauge counts, also when its holder is cancelled.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
