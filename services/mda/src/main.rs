//! Stores mail: the message delivery agent (RFC 5598 §4.3.3), and the only owner of Postgres.
fn main() -> std::process::ExitCode {
    runtime::main("mda", mda::run)
}
