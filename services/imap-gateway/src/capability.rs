//! What CAPABILITY says (RFC 9051 §7.2.2): only what is there as a whole.

use crate::config::Config;

/// Of the session, as far as capabilities depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub starttls: bool,
    /// Passwords may be sent: over TLS, or because the operator allows it.
    pub may_login: bool,
    pub logged_in: bool,
    /// The -PLUS mechanisms have something to bind to.
    pub bindable: bool,
    /// COMPRESS is active.
    pub compressed: bool,
}

/// IMAP4rev2 holds most of the extensions that the older clients look for by name.
const AFTER_LOGIN: &str = "IMAP4rev1 IMAP4rev2 LITERAL+ ID ENABLE IDLE NAMESPACE UIDPLUS UNSELECT MOVE CHILDREN \
     LIST-EXTENDED LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE ESEARCH SEARCHRES CONDSTORE QRESYNC BINARY \
     SORT SORT=DISPLAY ESORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES WITHIN MULTIAPPEND REPLACE OBJECTID SAVEDATE \
     PREVIEW PARTIAL UIDONLY QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE METADATA UTF8=ACCEPT UNAUTHENTICATE INPROGRESS \
     CATENATE NOTIFY ACL RIGHTS=kxte";

pub(crate) fn capabilities(config: &Config, state: State) -> String {
    if state.logged_in {
        let compress = if state.compressed { "" } else { " COMPRESS=DEFLATE" };
        return format!("{AFTER_LOGIN}{compress} APPENDLIMIT={}", config.max_message_size);
    }
    let mut text = String::from("IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE");
    if state.starttls {
        text.push_str(" STARTTLS");
    }
    if state.may_login {
        for mechanism in config.mechanisms.iter().filter(|m| state.bindable || !m.ends_with("-PLUS")) {
            text.push_str(" AUTH=");
            text.push_str(mechanism);
        }
    } else {
        text.push_str(" LOGINDISABLED");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_login_is_offered_without_tls() {
        let config = Config::default();
        let before = capabilities(
            &config,
            State { starttls: true, may_login: false, logged_in: false, bindable: false, compressed: false },
        );
        assert!(before.contains("STARTTLS LOGINDISABLED") && !before.contains("AUTH="), "{before}");
        let secure = capabilities(
            &config,
            State { starttls: false, may_login: true, logged_in: false, bindable: false, compressed: false },
        );
        assert!(secure.contains("AUTH=PLAIN AUTH=LOGIN") && !secure.contains("STARTTLS"), "{secure}");
        let after = capabilities(
            &config,
            State { starttls: false, may_login: true, logged_in: true, bindable: false, compressed: false },
        );
        assert!(after.contains("IDLE") && !after.contains("AUTH=") && !after.contains("  "), "{after}");
    }
}
