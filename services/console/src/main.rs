//! The HTTP admin API and the web page with the Email Journey.
fn main() -> std::process::ExitCode {
    runtime::main("console", console::run)
}
