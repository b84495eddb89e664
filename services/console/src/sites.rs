//! Other sites of the same operator: a journey that leaves us goes on there, and is read from their
//! consoles.

use anyhow::Context as _;
use proto::journey::JourneyEvent;

use crate::{
    api::messages::{Event, Journey},
    config,
    http::{self, Client},
    submit,
};

pub struct Sites(Vec<Site>);

struct Site {
    domain: String,
    url: String,
    token: String,
    client: Client,
}

/// The same message as another site knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Onward {
    site: usize,
    pub queue_id: String,
}

impl Sites {
    pub fn new(sites: &[config::Site]) -> anyhow::Result<Self> {
        let read = |site: &config::Site| {
            let token = std::fs::read_to_string(&site.token_file)
                .with_context(|| format!("configuration key \"sites.token_file\" = {}", site.token_file.display()))?;
            let client = Client::new(site.ca_file.as_deref()).context("configuration key \"sites.ca_file\"")?;
            anyhow::Ok(Site {
                domain: site.domain.to_lowercase(),
                url: site.url.trim_end_matches('/').to_owned(),
                token: token.trim().to_owned(),
                client,
            })
        };
        sites.iter().map(read).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Where a message went, when an event says that it was relayed to one of them.
    pub fn onward(&self, event: &JourneyEvent) -> Option<Onward> {
        if event.name != "relayed" {
            return None;
        }
        let (_, domain) = event.recipient.rsplit_once('@')?;
        let site = self.0.iter().position(|site| site.domain.eq_ignore_ascii_case(domain))?;
        Some(Onward { site, queue_id: submit::queue_id(&event.text)? })
    }

    /// What happened there, each event marked with the site. Nothing when it cannot be asked: our
    /// own part is shown in any case.
    pub async fn events(&self, onward: &Onward) -> Vec<Event> {
        let Some(site) = self.0.get(onward.site) else { return Vec::new() };
        // Only its own part, so that two sites do not ask each other in circles.
        let url = format!("{}/api/v1/messages/{}?local=true", site.url, onward.queue_id);
        let asked = async { http::json::<Journey>(site.client.get(&url, Some(&site.token)).await?) };
        match asked.await {
            Ok(journey) => {
                let mark = |event: Event| Event { site: site.domain.clone(), ..event };
                journey.events.into_iter().map(mark).collect()
            }
            Err(error) => {
                tracing::info!(site = site.domain, error = format!("{error:#}"), "another site does not tell");
                Vec::new()
            }
        }
    }
}
