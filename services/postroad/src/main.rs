//! The command line: runs all of Postroad on one machine, and asks a running one.
fn main() -> std::process::ExitCode {
    postroad::main()
}
