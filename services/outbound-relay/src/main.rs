//! Brings mail to other hosts: MX lookup, SMTP with STARTTLS, retry, bounce (RFC 5321 §4.5.4, §5.1).
fn main() -> std::process::ExitCode {
    runtime::main("outbound-relay", outbound_relay::run)
}
