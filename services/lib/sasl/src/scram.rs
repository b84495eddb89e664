//! SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677): the server knows no password, only a verifier.

use std::{fmt, num::NonZeroU32, str::FromStr};

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

const KEY: usize = 32;
type Key = [u8; KEY];
/// RFC 7677 §4 wants at least 4096. More would not only cost us, but every phone at every login.
pub const ITERATIONS: u32 = 10_000;
/// Salts are that long; invented ones, too.
pub const SALT: usize = 16;
/// A verifier that wants more would let its owner stall clients.
const MAX_ITERATIONS: u32 = 10_000_000;

/// What the server keeps instead of the password (RFC 5802 §3).
///
/// Written as `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the form of RFC 5803 that
/// Postgres and others use too.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

/// It is as good as a password to whoever wants to be the server.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct NotAVerifier;

impl Verifier {
    /// Slow by design: not for an async thread. `salt` is random, of [`SALT`] octets.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let client_key = sign(&salted(password, salt, iterations), b"Client Key");
        let server_key = sign(&salted(password, salt, iterations), b"Server Key");
        Self { iterations, salt: salt.to_vec(), stored_key: hash(&client_key), server_key }
    }

    /// For who does not exist: always the same for a name, and no proof ever fits.
    pub fn invent(secret: &[u8], authcid: &str) -> Self {
        let part = |label: &str| sign(secret, format!("{label}\0{authcid}").as_bytes());
        let salt = part("salt").into_iter().take(SALT).collect();
        Self { iterations: ITERATIONS, salt, stored_key: part("stored"), server_key: part("server") }
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] = [&self.salt[..], &self.stored_key, &self.server_key].map(|b| BASE64.encode(b));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl FromStr for Verifier {
    type Err = NotAVerifier;

    fn from_str(text: &str) -> Result<Self, NotAVerifier> {
        let read = || {
            let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let key = |text: &str| Key::try_from(BASE64.decode(text).ok()?).ok();
            let iterations = iterations.parse().ok().filter(|i| (1..=MAX_ITERATIONS).contains(i))?;
            let salt = BASE64.decode(salt).ok().filter(|s| !s.is_empty())?;
            Some(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
        };
        read().ok_or(NotAVerifier)
    }
}

/// What the client's first message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    pub authzid: String,
    pub authcid: String,
    /// The GS2 header, and the channel's binding behind it: what `c=` must repeat.
    bound: Vec<u8>,
    bare: String,
    nonce: String,
}

/// The exchange from the server's first message on.
#[derive(Debug)]
pub struct Exchange {
    first: First,
    server_first: String,
    nonce: String,
    verifier: Verifier,
}

/// Reads `client-first-message`. `binding` is empty where `-PLUS` was not offered.
pub fn first(message: &[u8], is_plus: bool, binding: &[u8]) -> Option<First> {
    let message = std::str::from_utf8(message).ok()?;
    let (flag, rest) = message.split_once(',')?;
    let (authzid, bare) = rest.split_once(',')?;
    let fits = match flag {
        "p=tls-exporter" => is_plus && !binding.is_empty(),
        // RFC 5802 §6: the client can bind and believes that we cannot. Somebody took our offer away.
        "y" => !is_plus && binding.is_empty(),
        "n" => !is_plus,
        _ => false,
    };
    let authzid = match authzid {
        "" => String::new(),
        text => unescape(text.strip_prefix("a=")?)?,
    };
    let mut parts = bare.split(',');
    let authcid = unescape(parts.next()?.strip_prefix("n=")?)?;
    let nonce = parts.next()?.strip_prefix("r=").filter(|n| !n.is_empty() && is_printable(n))?.to_owned();
    let mut bound = message.get(..message.len() - bare.len())?.as_bytes().to_vec();
    if is_plus {
        bound.extend_from_slice(binding);
    }
    let valid = fits && !authcid.is_empty() && !authcid.contains('\0');
    valid.then(|| First { authzid, authcid, bound, bare: bare.to_owned(), nonce })
}

impl Exchange {
    /// `nonce` is random and printable without commas; the second value is `server-first-message`.
    pub fn begin(first: First, verifier: Verifier, nonce: &str) -> (Self, Vec<u8>) {
        let nonce = format!("{}{nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let challenge = server_first.clone().into_bytes();
        (Self { first, server_first, nonce, verifier }, challenge)
    }

    /// Checks `client-final-message`; `server-final-message` when the proof fits.
    pub fn finish(&self, message: &[u8]) -> Option<Vec<u8>> {
        let message = std::str::from_utf8(message).ok()?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let bound = BASE64.decode(parts.next()?.strip_prefix("c=")?).ok()?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        let proof = Key::try_from(BASE64.decode(proof).ok()?).ok()?;
        let message = format!("{},{},{without_proof}", self.first.bare, self.server_first);
        let signature = sign(&self.verifier.stored_key, message.as_bytes());
        let client_key = xor(proof, signature);
        let proven = constant_time::verify_slices_are_equal(&hash(&client_key), &self.verifier.stored_key).is_ok();
        let ours = constant_time::verify_slices_are_equal(&bound, &self.first.bound).is_ok() && nonce == self.nonce;
        let answer = sign(&self.verifier.server_key, message.as_bytes());
        (proven && ours).then(|| format!("v={}", BASE64.encode(answer)).into_bytes())
    }
}

/// The client's side; our own services use it in tests and towards smart hosts.
#[derive(Debug)]
pub struct Client {
    password: String,
    gs2: String,
    binding: Vec<u8>,
    bare: String,
    nonce: String,
    expected: Option<Vec<u8>>,
}

impl Client {
    /// With a `binding` it is `-PLUS`. The second value is the initial response.
    pub fn new(authcid: &str, password: &str, nonce: &str, binding: Option<&[u8]>) -> (Self, Vec<u8>) {
        let gs2 = if binding.is_some() { "p=tls-exporter,," } else { "n,," }.to_owned();
        let bare = format!("n={},r={nonce}", authcid.replace('=', "=3D").replace(',', "=2C"));
        let initial = format!("{gs2}{bare}").into_bytes();
        let binding = binding.unwrap_or_default().to_vec();
        (Self { password: password.into(), gs2, binding, bare, nonce: nonce.into(), expected: None }, initial)
    }

    /// The answer to `server-first-message`; `None` when that is no honest one.
    pub fn respond(&mut self, server_first: &[u8]) -> Option<Vec<u8>> {
        let server_first = std::str::from_utf8(server_first).ok()?;
        let mut parts = server_first.split(',');
        let nonce = parts.next()?.strip_prefix("r=").filter(|n| n.starts_with(&self.nonce))?;
        let salt = BASE64.decode(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations = parts.next()?.strip_prefix("i=")?.parse().ok().filter(|i| (1..=MAX_ITERATIONS).contains(i))?;
        let bound = [self.gs2.as_bytes(), &self.binding].concat();
        let without_proof = format!("c={},r={nonce}", BASE64.encode(bound));
        let message = format!("{},{server_first},{without_proof}", self.bare);
        let salted = salted(&self.password, &salt, iterations);
        let client_key = sign(&salted, b"Client Key");
        let proof = xor(client_key, sign(&hash(&client_key), message.as_bytes()));
        self.expected =
            Some(format!("v={}", BASE64.encode(sign(&sign(&salted, b"Server Key"), message.as_bytes()))).into());
        Some(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
    }

    /// Whether the server knows the password, too.
    pub fn is_server(&self, server_final: &[u8]) -> bool {
        self.expected.as_deref() == Some(server_final)
    }
}

/// `=2C` is a comma, `=3D` an equals sign, and nothing else may follow `=` (RFC 5802 §5.1).
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('=') {
        out.push_str(before);
        let (code, behind) = behind.split_at_checked(2)?;
        out.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// `Hi(Normalize(password), salt, i)`; a password that SASLprep forbids is taken as it is.
fn salted(password: &str, salt: &[u8], iterations: u32) -> Key {
    let normal = stringprep::saslprep(password).unwrap_or(password.into());
    let mut out = [0; KEY];
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, normal.as_bytes(), &mut out);
    out
}

fn sign(key: &[u8], message: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    Key::try_from(tag.as_ref()).unwrap_or_default()
}

fn hash(bytes: &[u8]) -> Key {
    Key::try_from(digest::digest(&digest::SHA256, bytes).as_ref()).unwrap_or_default()
}

fn xor(a: Key, b: Key) -> Key {
    let mut out = a;
    out.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_of_rfc_7677() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive("pencil", &salt, 4096);
        let (mut client, initial) = Client::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO", None);
        assert_eq!(initial, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let first = first(&initial, false, b"").unwrap();
        let (exchange, challenge) = Exchange::begin(first, verifier, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(
            challenge,
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let answer = client.respond(&challenge).unwrap();
        assert_eq!(
            answer,
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = exchange.finish(&answer).unwrap();
        assert_eq!(last, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(client.is_server(&last) && !client.is_server(b"v=x"));
    }

    #[test]
    fn binding_is_to_this_channel_and_cannot_be_taken_away() {
        let run = |ours: &[u8], theirs: &[u8]| {
            let (mut client, initial) = Client::new("a,b=c", "p", "n", Some(theirs));
            let first = first(&initial, true, ours)?;
            assert_eq!(first.authcid, "a,b=c");
            let (exchange, challenge) = Exchange::begin(first, Verifier::derive("p", b"salt", 10), "s");
            exchange.finish(&client.respond(&challenge).unwrap())
        };
        assert!(run(b"channel", b"channel").is_some());
        assert_eq!(run(b"channel", b"other"), None, "somebody in the middle");
        assert_eq!(run(b"", b"channel"), None, "not offered");
        assert_eq!(first(b"y,,n=u,r=n", false, b"channel"), None, "the offer was removed on the way");
        assert!(first(b"y,,n=u,r=n", false, b"").is_some());
        assert_eq!(first(b"n,,n=u,r=n", true, b"channel"), None, "PLUS without binding");
        assert_eq!(first(b"p=tls-unique,,n=u,r=n", true, b"channel"), None);
    }

    #[test]
    fn only_the_password_is_proof() {
        let finish = |verifier: Verifier, password: &str, spoil: fn(String) -> String| {
            let (mut client, initial) = Client::new("u", password, "n", None);
            let (exchange, challenge) = Exchange::begin(first(&initial, false, b"").unwrap(), verifier, "s");
            let answer = String::from_utf8(client.respond(&challenge).unwrap()).unwrap();
            exchange.finish(spoil(answer).as_bytes()).is_some()
        };
        let verifier = || Verifier::derive("pass", b"0123456789abcdef", 10);
        assert!(finish(verifier(), "pass", |a| a));
        assert!(!finish(verifier(), "Pass", |a| a));
        assert!(!finish(Verifier::invent(b"secret", "u"), "pass", |a| a));
        assert!(!finish(verifier(), "pass", |a| a.replace("r=ns", "r=nt")));
        assert!(!finish(verifier(), "pass", |a| a.replace("c=biws", "c=eSws")));
        // SASLprep: the composed and the decomposed letter are one (RFC 4013).
        assert!(finish(Verifier::derive("\u{e4}", b"salt", 5), "a\u{308}", |a| a));
    }

    #[test]
    fn verifiers_are_written_and_read() {
        let verifier = Verifier::derive("x", b"salt", 4096);
        assert_eq!(verifier.to_string().parse(), Ok(verifier));
        assert_eq!(Verifier::invent(b"k", "a"), Verifier::invent(b"k", "a"));
        assert_ne!(Verifier::invent(b"k", "a"), Verifier::invent(b"k", "b"));
        for bad in ["", "SCRAM-SHA-256$0:cw==$a:b", "SCRAM-SHA-256$1:cw==$cw==:cw==", "SCRAM-SHA-1$1:a$b:c"] {
            assert_eq!(bad.parse::<Verifier>(), Err(NotAVerifier), "{bad}");
        }
    }

    #[test]
    fn malformed_messages() {
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=u",
            "n,,r=n,n=u",
            "n,,n=,r=n",
            "n,,n=a=2,r=n",
            "n,,n=a=4D,r=n",
            "n,b=x,n=u,r=n",
            "n,,m=x,n=u,r=n",
            "x,,n=u,r=n",
            "n,,n=u,r=",
            "n,,n=u\0,r=n",
        ] {
            assert_eq!(first(bad.as_bytes(), false, b""), None, "{bad}");
        }
        let (exchange, _) = Exchange::begin(first(b"n,,n=u,r=n", false, b"").unwrap(), Verifier::invent(b"", ""), "s");
        for bad in
            ["", "c=biws", "c=biws,r=ns", "c=biws,r=ns,p=", "c=biws,r=ns,p=!", "c=,r=,p=AAAA", "r=ns,c=biws,p=AAAA"]
        {
            assert_eq!(exchange.finish(bad.as_bytes()), None, "{bad}");
        }
    }
}
