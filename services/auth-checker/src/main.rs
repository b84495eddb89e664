//! Says who a message really comes from: SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 9989).
fn main() -> std::process::ExitCode {
    runtime::main("auth-checker", auth_checker::run)
}
