//! Receives mail: SMTP (RFC 5321) and submission (RFC 6409).
fn main() -> std::process::ExitCode {
    runtime::main("smtp-ingress", smtp_ingress::run)
}
