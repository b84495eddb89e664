use pop3::{Refusal, Verb};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Command {
    verb: &'static str,
    reply: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Login {
    outcome: &'static str,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    commands: Family<Command, Counter>,
    logins: Family<Login, Counter>,
    pub retrieved: Counter,
    pub deleted: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("pop3_commands", "Commands by verb and reply", metrics.commands.clone());
        registry.register("pop3_logins", "Logins by outcome", metrics.logins.clone());
        registry.register("pop3_messages_retrieved", "Messages sent by RETR or TOP", metrics.retrieved.clone());
        registry.register("pop3_messages_deleted", "Messages deleted by QUIT", metrics.deleted.clone());
        metrics
    }

    pub fn command(&self, verb: Verb, ok: bool) {
        self.commands.get_or_create(&Command { verb: verb.as_str(), reply: if ok { "ok" } else { "err" } }).inc();
    }

    pub fn login(&self, outcome: Result<(), Refusal>) {
        let outcome = match outcome {
            Ok(()) => "success",
            Err(Refusal::Credentials) => "credentials",
            Err(Refusal::InUse) => "in_use",
            Err(Refusal::Temporary | Refusal::ShuttingDown) => "temporary",
            Err(Refusal::Permanent | Refusal::Gone) => "permanent",
        };
        self.logins.get_or_create(&Login { outcome }).inc();
    }
}
