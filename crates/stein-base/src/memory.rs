//! How much memory there is, so that a size that cannot be is refused before anything is allocated for it.

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::{Result, ensure};

/// Bytes of memory there are for this process: those of the machine or, where they are fewer, those its control group or its
/// limit of address space allows it. None where the system does not say.
///
/// What other programs use of it is not taken off: whether a size is accepted then does not change from one start to the next.
pub fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let own = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, ProcessRefreshKind::nothing());
    let group = system.process(own).and_then(|process| process.cgroup_limits()).map(|limits| limits.total_memory);
    let machine = Some(system.total_memory()).filter(|bytes| *bytes > 0);
    [machine, group, address_space()].into_iter().flatten().min()
}

/// The limit that `ulimit -v` sets.
#[cfg(target_os = "linux")]
fn address_space() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn address_space() -> Option<u64> {
    None
}

/// Fails unless this many bytes fit into the memory there [is](available).
///
/// # Errors
/// With both numbers: "this network needs 160 GB of memory, and 24 GB are here: …".
pub fn ensure_fits(what: &str, bytes: u128) -> Result<()> {
    // Nothing larger has an address.
    let here = available().unwrap_or(isize::MAX as u64);
    ensure!(
        bytes <= u128::from(here),
        "{what} needs {} of memory, and {} are here: give smaller sizes",
        in_words(bytes),
        in_words(here.into())
    );
    Ok(())
}

/// A number of bytes with two digits or more, in the unit that suits it.
fn in_words(bytes: u128) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    let steps = units.len() - 1;
    let step = (0..steps).find(|step| bytes < 10 * 1000u128.pow(*step as u32 + 1)).unwrap_or(steps);
    let number = bytes / 1000u128.pow(step as u32);
    if number > 1_000_000 { format!("more than a million {}", units[step]) } else { format!("{number} {}", units[step]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_with_both_numbers() {
        ensure_fits("a page", 4096).unwrap();
        let sentence = ensure_fits("this network", 160_000_000_000_000).unwrap_err().to_string();
        assert!(sentence.starts_with("this network needs 160 TB of memory, and "), "{sentence}");
        assert!(ensure_fits("it", u128::MAX).unwrap_err().to_string().contains("more than a million EB"));
    }

    #[test]
    fn numbers_of_bytes_have_two_digits_or_more() {
        let cases = [(0, "0 bytes"), (9_999, "9999 bytes"), (10_000, "10 kB"), (25_500_000_000, "25 GB"), (9 << 40, "9895 GB")];
        for (bytes, words) in cases {
            assert_eq!(in_words(bytes), words);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn there_is_no_more_than_the_machine_has() {
        let said = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = said.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
        let here = available().unwrap();
        assert!(here > 1 << 20 && here <= 1024 * total, "{here} of {total} kB");
    }
}
