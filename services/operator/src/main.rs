//! Domains as Kubernetes resources: applied to mda, and looked up in the DNS.
fn main() -> std::process::ExitCode {
    runtime::main("operator", operator::run)
}
