//! A real Docker Engine, as a guard: several run side by side, as root, without touching the machine's own engine.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use crate::peer;
use crate::server::{self, Server};

/// A Docker Engine of its own: own data, own containerd (which it starts itself and which dies with it), own host name, no bridge and no
/// firewall rules. Its mounts are in a mount namespace of its own, so that none is left behind even by `kill`.
pub struct Engine(Server);

impl Engine {
    /// Starts an engine whose host name is `name`.
    ///
    /// # Panics
    /// If it does not answer; ask [`require_or_skip!`](crate::require_or_skip)`("dockerd")` first.
    pub fn start(name: &str) -> Self {
        let dockerd = peer::find("dockerd").expect("dockerd, after require_or_skip!(\"dockerd\")");
        let server = Server::start(name, "unshare".into(), |folder| {
            std::fs::write(folder.join("daemon.json"), "{}").expect("an empty configuration");
            let path = |name: &str| folder.join(name).into_os_string();
            // Namespaces first; `exec` keeps the process id that the guard knows.
            let mut args =
                ["--mount", "--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", name].map(Into::into).to_vec();
            args.push(dockerd.into_os_string());
            args.extend(["--config-file".into(), path("daemon.json")]);
            args.extend([
                "--data-root".into(),
                path("data"),
                "--exec-root".into(),
                path("exec"),
                "-p".into(),
                path("pid"),
            ]);
            args.extend(["-H".into(), format!("unix://{}", server::socket(folder).display()).into()]);
            args.extend(["--iptables=false", "--bridge=none", "--storage-driver=vfs"].map(Into::into));
            args
        });
        Self(server)
    }

    /// Kills it at once (`kill -9`), as a power cut would; its containerd dies with it.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        self.0.kill();
        // A power cut would also end the process that this file names. Here the kernel may keep it as a zombie, which a new engine takes
        // for alive and waits for in vain.
        let _absent = std::fs::remove_file(self.folder().join("exec/containerd/containerd.pid"));
    }

    /// Where it keeps its node certificate, key and trust bundle, and under which names.
    pub fn certificates(&self) -> Certificates {
        Certificates { folder: self.folder().join("data/swarm/certificates") }
    }
}

impl Deref for Engine {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Engine {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// The folder `swarm/certificates` of an engine's data, or of our daemon's state: both use the same names.
#[derive(Debug, Clone)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// The files of `folder`.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The trust bundle.
    pub fn root(&self) -> PathBuf {
        self.folder.join("swarm-root-ca.crt")
    }

    /// The node's chain, leaf first.
    pub fn chain(&self) -> PathBuf {
        self.folder.join("swarm-node.crt")
    }

    /// The node's key.
    pub fn key(&self) -> PathBuf {
        self.folder.join("swarm-node.key")
    }
}
