//! Facts about the machine, for `docker info`, `docker version` and the node's description.

use std::fs;

/// What the daemon shows of the machine it runs on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Host name to show instead of the kernel's.
    hostname: Option<String>,
    /// `x86_64`, `aarch64`, …: the kernel's word.
    pub(crate) architecture: &'static str,
    /// Kernel release.
    pub(crate) kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub(crate) operating_system: String,
    /// `VERSION_ID` of os-release.
    pub(crate) os_version: String,
    /// Processors usable by this process.
    pub(crate) processors: u64,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
}

impl Machine {
    /// Looks around. What cannot be found out is left empty.
    pub(crate) fn inspect(hostname: Option<&str>) -> Self {
        let os_release = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        Self {
            hostname: hostname.map(str::to_owned),
            architecture: std::env::consts::ARCH,
            kernel: first_line("/proc/sys/kernel/osrelease"),
            operating_system: os_release_field(&os_release, "PRETTY_NAME").unwrap_or_else(|| "linux".to_owned()),
            os_version: os_release_field(&os_release, "VERSION_ID").unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        }
    }

    /// The host name, from the configuration or the kernel; the kernel's may change at any time.
    pub(crate) fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(kernel_hostname)
    }

    /// The architecture in Go's words, as `docker version` shows it.
    pub(crate) fn go_architecture(&self) -> &'static str {
        match self.architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}

fn kernel_hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".to_owned())
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.lines().next().map(|line| line.trim().to_owned()))
        .unwrap_or_default()
}

fn os_release_field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim().trim_matches('"').trim_matches('\'').to_owned())
    })
}

fn memory_bytes(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_os_release_and_meminfo() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID='12'\n";
        assert_eq!(os_release_field(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(os_release_field(text, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_release_field(text, "ID"), None);
        assert_eq!(memory_bytes("MemFree: 1 kB\nMemTotal:       24684084 kB\n"), 25_276_502_016);
        assert_eq!(memory_bytes("nonsense"), 0);
    }
}
