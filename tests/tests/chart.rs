//! The Helm chart: right for Kubernetes, right for our own programs, and as reviewed.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tests::process::ours;

/// Where `deploy/packages.sh chart` puts Helm and the schemas.
fn tool(name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/tmp".into())).join(".cache/postroad/tools");
    let place = std::env::var_os("CARGO_INSTALL_ROOT").map_or_else(home, PathBuf::from).join(name);
    assert!(place.exists(), "{} is missing: deploy/packages.sh chart", place.display());
    place
}

/// Lint, schemas, pod security, references, wrong values, golden renderings; and every rendered
/// configuration is read by the program it is for (see deploy/chart.py).
#[test]
fn every_rendering_is_right_for_kubernetes_and_for_our_programs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(tool("chart/bin/python"))
        .arg(root.join("deploy/chart.py"))
        .args(["check", "--binaries"])
        .arg(ours("mda").parent().unwrap())
        .env("HELM", tool("bin/helm"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    eprintln!("{out}");
}
