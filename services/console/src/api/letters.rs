//! Sending from the Email Journey page.

use address::Address;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    problem::Problem,
    route::{Call, Json, Nothing},
    submit::{Letter, Sent, Way, compose},
};

const MAX_TEXT: usize = 100_000;
const MAX_SUBJECT: usize = 500;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    way: Route,
    /// The From field and the reverse-path.
    from: String,
    to: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    text: String,
    /// The account that submits; `from` when absent. One may claim to be somebody else, and see what
    /// the server says.
    #[serde(default)]
    account: String,
    /// Of the account. Used for this one submission, kept nowhere.
    #[serde(default)]
    password: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Route {
    /// As a mail program of an account does.
    Submission,
    /// As any host of the Internet does: at the MX port, to a domain of ours.
    Stranger,
}

pub async fn send(call: Call, _: Nothing, draft: Draft) -> Result<Json<Sent>, Problem> {
    let (app, caller) = (&call.app, call.caller()?);
    let address = |key: &str, text: &str| -> Result<Address, Problem> {
        text.trim().parse().map_err(|e| Problem::bad_request(format!("{key} = {text:?}: {e}")))
    };
    let (from, to) = (address("from", &draft.from)?, address("to", &draft.to)?);
    if draft.text.len() > MAX_TEXT || draft.subject.len() > MAX_SUBJECT {
        return Err(Problem::bad_request(format!("text: at most {MAX_TEXT} bytes, subject: at most {MAX_SUBJECT}")));
    }
    let way = match draft.way {
        Route::Submission if !app.submission.can_submit() => {
            return Err(Problem::not_found("configuration key \"submission\" is not set"));
        }
        Route::Stranger if !app.submission.can_knock() => {
            return Err(Problem::not_found("configuration key \"mx\" is not set"));
        }
        Route::Submission => {
            let account = if draft.account.is_empty() { from.clone() } else { address("account", &draft.account)? };
            // Whoever logs in here cannot guess at another tenant's passwords.
            caller.must_own(app, account.domain()).await?;
            Way::Submission { account: account.to_string(), password: draft.password }
        }
        Route::Stranger => {
            caller.must_own(app, to.domain()).await?;
            Way::Stranger
        }
    };
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Problem::unavailable("no random numbers"))?;
    let id = random.iter().fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
    let message_id = format!("{id}@{}", from.domain());
    let content = compose(&from.to_string(), &to.to_string(), &draft.subject, &draft.text, &message_id);
    let letter = Letter { reverse_path: from.to_string(), recipient: to.to_string(), content };
    let sent = app.submission.send(&way, &letter).await;
    app.metrics.sent(if sent.accepted { "accepted" } else { "refused" });
    Ok(Json(sent))
}
