/// The initial response of PLAIN (RFC 4616 §2), not yet in base64.
///
/// `authzid` is empty to act as oneself. None of the three may contain NUL; such a login is
/// answered with a response that no server accepts.
pub fn plain_initial_response(authzid: &str, authcid: &str, password: &str) -> Vec<u8> {
    [authzid, authcid, password].join("\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mechanism, Server, Step};

    #[test]
    fn is_what_the_server_reads() {
        assert_eq!(plain_initial_response("", "tim", "tanstaaftanstaaf"), b"\0tim\0tanstaaftanstaaf");
        let (_, step) = Server::start(Mechanism::Plain, Some(&plain_initial_response("", "bob", "secret")));
        assert!(matches!(step, Step::Verify(login) if login.authcid == "bob" && login.password == "secret"));
    }
}
