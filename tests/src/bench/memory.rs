//! Memory of process trees, from `/proc`.

use super::cpu;

/// kB of a process and everything below it: what several share is divided among them (PSS).
pub fn of_tree(root: u32) -> u64 {
    cpu::tree(&[root]).into_iter().filter_map(of).sum()
}

fn of(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn we_have_memory() {
        assert!(super::of_tree(std::process::id()) > 100);
    }
}
