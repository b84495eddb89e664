//! Gives mail to IMAP clients (RFC 3501, RFC 9051).
fn main() -> std::process::ExitCode {
    runtime::main("imap-gateway", imap_gateway::run)
}
