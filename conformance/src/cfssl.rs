//! A real `cfssl serve` as a guard: the external CA of a swarm of ours.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::openssl::openssl;
use testkit::{peer, wait};

use crate::rotation::{GivenRoot, P256};

/// How long it may take to listen on a busy machine.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// What it signs: nodes for 90 days, and in the profile `CA` roots that are cross-signed.
const CONFIG: &str = r#"{"signing": {
    "default": {"usages": ["signing", "key encipherment", "server auth", "client auth"], "expiry": "2160h"},
    "profiles": {"CA": {"usages": ["cert sign", "crl sign"], "expiry": "87600h",
                        "ca_constraint": {"is_ca": true, "max_path_len": 1}}}}}"#;

/// The CA; it ends with the value. Stopped, its port refuses connections.
pub struct Cfssl {
    folder: tempfile::TempDir,
    addr: SocketAddr,
    /// Whether managers have to present a certificate.
    mutual: bool,
    child: Option<Child>,
}

impl Cfssl {
    /// Serves `root`'s key at `addr`, with a server certificate of `root`'s, to managers with a certificate of `root`'s or of `trusted`'s
    /// (PEM): the root that the swarm leaves must be among them, since a manager comes with a leaf of that at first.
    ///
    /// # Panics
    /// If it does not listen; ask `require_or_skip!("cfssl", "openssl")` first.
    pub fn start(addr: SocketAddr, root: &GivenRoot, trusted: &str) -> Self {
        Self::serve(addr, root, trusted, true)
    }

    /// The same for whoever comes: a swarm's first manager has no certificate yet.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn open(addr: SocketAddr, root: &GivenRoot) -> Self {
        Self::serve(addr, root, "", false)
    }

    /// Starts it anew; from now on managers have to present a certificate.
    ///
    /// # Panics
    /// If it does not run, or does not listen again.
    pub fn close(&mut self) {
        self.stop();
        self.mutual = true;
        self.go_on();
    }

    fn serve(addr: SocketAddr, root: &GivenRoot, trusted: &str, mutual: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("swarmpki-").tempdir().expect("a folder");
        let mut cfssl = Self { folder, addr, mutual, child: None };
        cfssl.write("root.pem", &root.certificate());
        cfssl.write("root.key", &root.key());
        cfssl.write("config.json", CONFIG);
        cfssl.write("managers.pem", &format!("{}{trusted}", root.certificate()));
        let path = |name| cfssl.path(name);
        let [key, csr, leaf, names] = ["tls.key", "tls.csr", "tls.pem", "tls.names"].map(path);
        openssl(&[&["genpkey", "-out", &key], P256].concat()).ok();
        openssl(&["req", "-new", "-key", &key, "-subj", "/CN=cfssl", "-out", &csr]).ok();
        cfssl.write("tls.names", &format!("subjectAltName=IP:{}\nextendedKeyUsage=serverAuth\n", addr.ip()));
        let (root, root_key) = (path("root.pem"), path("root.key"));
        let signer = ["-CA", &root, "-CAkey", &root_key, "-CAcreateserial", "-days", "365", "-extfile", &names];
        openssl(&[&["x509", "-req", "-in", &csr, "-out", &leaf], &signer[..]].concat()).ok();
        cfssl.go_on();
        cfssl
    }

    /// Where it signs.
    pub fn url(&self) -> String {
        format!("https://{}/api/v1/cfssl/sign", self.addr)
    }

    /// Starts it (again) and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub fn go_on(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let (ip, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        let file = |option: &str, name: &str| [option.to_owned(), self.path(name)];
        let files = [
            file("-ca", "root.pem"),
            file("-ca-key", "root.key"),
            file("-config", "config.json"),
            file("-tls-cert", "tls.pem"),
            file("-tls-key", "tls.key"),
        ];
        let mutual = if self.mutual { file("-mutual-tls-ca", "managers.pem").to_vec() } else { Vec::new() };
        let program = peer::find("cfssl").expect("cfssl, after require_or_skip!(\"cfssl\")");
        // With this thread, should a limit end the test.
        let mut command = match peer::find("setpriv") {
            Ok(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            Err(_) => Command::new(program),
        };
        let child = command
            .args(["serve", "-address", &ip, "-port", &port])
            .args(files.concat())
            .args(mutual)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("cfssl"));
        wait::until("cfssl listens", LISTENS_WITHIN, || {
            TcpStream::connect(self.addr).map(drop).map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    /// Ends it at once.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill");
        child.wait().expect("its end");
    }

    /// How many certificates it signed, over its restarts.
    pub fn signed(&self) -> usize {
        self.log().matches("signed certificate with serial number").count()
    }

    /// All it ever said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }
}

impl Drop for Cfssl {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<_> = log.lines().rev().take(12).collect();
            eprintln!("cfssl at {} said at last:\n{}", self.addr, end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
