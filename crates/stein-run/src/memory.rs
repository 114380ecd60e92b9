//! How much memory this process takes, where the system tells.

/// The most memory this process had since it began, or since [`forget_peak`], in MiB.
pub(crate) fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Lets the system forget the most memory this process had; where it cannot, [`peak_mib`] goes on telling the most of all.
pub(crate) fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").ok();
}
