//! Generates the messages, clients and servers; protox parses the files, so no protoc is needed.

const FILES: [&str; 10] = [
    "postroad/admin/v1/admin.proto",
    "postroad/auth/v1/auth.proto",
    "postroad/console/v1/console.proto",
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
    let mut repeatable = String::from("&[");
    for file in &files.file {
        for service in &file.service {
            // NO_SIDE_EFFECTS or IDEMPOTENT.
            let may = |level: i32| level != 0;
            for method in &service.method {
                if method.options.as_ref().is_some_and(|o| may(o.idempotency_level.unwrap_or_default())) {
                    repeatable += &format!("\"/{}.{}/{}\",", file.package(), service.name(), method.name());
                }
            }
        }
    }
    let list = std::path::Path::new(&std::env::var("OUT_DIR")?).join("repeatable.rs");
    std::fs::write(list, repeatable + "]")?;
    // Bytes, not Vec<u8>: content passes through by reference.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
