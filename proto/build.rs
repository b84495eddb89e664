//! Generates the messages, clients and servers; protox parses the files, so no protoc is needed.

const FILES: [&str; 9] = [
    "postroad/admin/v1/admin.proto",
    "postroad/auth/v1/auth.proto",
    "postroad/directory/v1/directory.proto",
    "postroad/journey/v1/journey.proto",
    "postroad/mailboxes/v1/mailboxes.proto",
    "postroad/relay/v1/relay.proto",
    "postroad/report/v1/report.proto",
    "postroad/rules/v1/rules.proto",
    "postroad/spool/v1/spool.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=postroad");
    let files = protox::compile(FILES, ["."])?;
    // Bytes, not Vec<u8>: content passes through by reference.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
