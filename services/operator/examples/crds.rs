//! Writes the chart's CRDs: `cargo run -p operator --example crds > helm/postroad/crds/domains.yaml`.

use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for crd in operator::crds() {
        writeln!(out, "---\n{}", serde_saphyr::to_string(&serde_json::to_value(crd)?)?)?;
    }
    Ok(())
}
