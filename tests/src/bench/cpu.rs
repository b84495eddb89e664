//! CPU time of process trees, from `/proc`.

use std::collections::{BTreeMap, BTreeSet};

/// `/proc` counts in `USER_HZ`, which is 100 on every platform that Rust runs Linux on but Alpha.
const MS_PER_TICK: f64 = 10.0;

/// Milliseconds by program name, children that have ended counted to whoever waited for them.
#[derive(Debug, Clone, Default)]
pub struct Usage(BTreeMap<String, f64>);

struct Process {
    name: String,
    parent: u32,
    ms: f64,
}

impl Usage {
    /// Of some processes and everything below them.
    pub fn of_trees(roots: &[u32]) -> Self {
        let all = processes();
        let tree = below(roots, &all);
        let mut usage = Self::default();
        for process in tree.iter().filter_map(|id| all.get(id)) {
            *usage.0.entry(process.name.clone()).or_default() += process.ms;
        }
        usage
    }

    pub fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or_default();
        // A child that ended since is now in its parent's sum, so that one name may have less.
        let names: BTreeSet<&String> = self.0.keys().chain(earlier.0.keys()).collect();
        let of = |name: &String| self.0.get(name).copied().unwrap_or_default() - before(name);
        Self(names.into_iter().map(|name| (name.clone(), of(name))).collect())
    }

    pub fn total_ms(&self) -> f64 {
        self.0.values().sum()
    }

    /// The largest first.
    pub fn by_name(&self) -> Vec<(&str, f64)> {
        let mut names: Vec<(&str, f64)> = self.0.iter().map(|(name, ms)| (name.as_str(), *ms)).collect();
        names.sort_by(|a, b| b.1.total_cmp(&a.1));
        names
    }
}

/// Some processes and everything below them.
pub fn tree(roots: &[u32]) -> BTreeSet<u32> {
    below(roots, &processes())
}

fn below(roots: &[u32], all: &BTreeMap<u32, Process>) -> BTreeSet<u32> {
    let mut tree = BTreeSet::from_iter(roots.iter().copied());
    loop {
        let below = all.iter().filter(|(_, p)| tree.contains(&p.parent)).map(|(id, _)| *id);
        let grown: BTreeSet<u32> = below.chain(tree.iter().copied()).collect();
        if grown.len() == tree.len() {
            return tree;
        }
        tree = grown;
    }
}

/// Whose child a process is.
pub fn parent(id: u32) -> u32 {
    processes()[&id].parent
}

fn processes() -> BTreeMap<u32, Process> {
    let ids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|f| f.file_name().to_str()?.parse().ok());
    // One that ended meanwhile is its parent's by now.
    ids.filter_map(|id| Some((id, parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect()
}

/// proc(5): `pid (name) state ppid … utime stime cutime cstime`, fields 14 to 17.
fn parse(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|f| f.parse::<f64>().ok()).sum();
    Some(Process { name, parent: fields.get(1)?.parse().ok()?, ms: ticks * MS_PER_TICK })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let stat = "7 (a) (b) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0";
        let process = parse(stat).unwrap();
        assert_eq!((process.name.as_str(), process.parent, process.ms), ("a) (b", 3, 1000.0));
    }

    #[test]
    fn a_tree_holds_its_children() {
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", "read x"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let usage = Usage::of_trees(&[std::process::id()]);
        assert!(usage.by_name().iter().any(|(name, _)| *name == "sh"));
        assert_eq!(parent(child.id()), std::process::id());
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
