//! The floors of the house: who may import whom (docs/ARCHITECTURE.md).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

const PROTOCOL: [&str; 11] =
    ["address", "dsn", "imap", "managesieve", "message", "milter", "pop3", "report", "sasl", "sieve", "smtp"];
const ADAPTERS: [&str; 4] = ["dns", "listener", "queue", "runtime"];
/// What no protocol crate knows: sockets, storage, the clock, chance.
const OUTER_WORLD: [&str; 12] = [
    "tokio",
    "tonic",
    "prost",
    "sqlx",
    "redis",
    "hickory-resolver",
    "rand",
    "getrandom",
    "uuid",
    "jiff",
    "chrono",
    "time",
];

fn floor(name: &str) -> u8 {
    match name {
        "tests" => 4,
        "proto" => 1,
        _ if PROTOCOL.contains(&name) => 0,
        _ if ADAPTERS.contains(&name) => 2,
        _ => 3,
    }
}

fn breaches(packages: &BTreeMap<String, Package>) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, package) in packages {
        let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
        for dependency in normal.map(|d| d.name.as_str()) {
            let own = packages.contains_key(dependency);
            let allowed = match (floor(name), own) {
                (0, true) => floor(dependency) == 0,
                (1, true) => floor(dependency) == 0,
                (2, true) => floor(dependency) < 2 || dependency == "runtime",
                (3, true) => floor(dependency) < 3,
                (0, false) => !OUTER_WORLD.contains(&dependency),
                (1..=3, false) => match dependency {
                    "sqlx" => name == "mda",
                    "kube" => name == "operator",
                    _ => true,
                },
                _ => true,
            };
            if !allowed {
                breaches.push(format!("{name} must not import {dependency}"));
            }
        }
    }
    breaches
}

#[test]
fn nobody_imports_from_a_higher_floor() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let packages: BTreeMap<String, Package> = metadata.packages.into_iter().map(|p| (p.name.to_string(), p)).collect();
    assert!(packages.len() >= 18, "the whole workspace: {:?}", packages.keys());
    assert_eq!(breaches(&packages), [""; 0]);
}

#[test]
fn every_package_lives_in_the_folder_of_its_name_and_takes_the_lints() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    for package in metadata.packages {
        let folder = package.manifest_path.parent().unwrap();
        assert_eq!(folder.file_name(), Some(package.name.as_str()), "{folder}");
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder} has no workspace lints");
    }
}
