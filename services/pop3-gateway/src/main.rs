//! Gives mail to POP3 clients (RFC 1939).
fn main() -> std::process::ExitCode {
    runtime::main("pop3-gateway", pop3_gateway::run)
}
