//! This server's own certificate: from the same CA, for its names, with neither O nor OU. Its key stays in memory.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mtls::ServerKey;
use pki::issue::{self, ServerLeaf};
use pki::key::{PrivateKey, Signer as _};
use pki::serial::Serial;
use pki::time::Time;

use crate::authority::{Authority, StartError, issue_fault};
use crate::entry::{Entry, Issued};

/// Life of the server's certificate.
pub(crate) const LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// How far before its making it begins, as a node's: the tolerance for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(3_600);
/// What it calls itself.
const COMMON_NAME: &str = "swarmpki ca serve";

/// Names and addresses, told apart; `localhost` is always one.
pub(crate) fn names(given: &[String]) -> Result<(Vec<String>, Vec<IpAddr>), StartError> {
    let (mut names, mut addresses) = (vec!["localhost".to_owned()], Vec::new());
    for name in given {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            // An unspecified address is where to listen, and nobody calls it.
            if !address.is_unspecified() && !addresses.contains(&address) {
                addresses.push(address);
            }
            continue;
        }
        let name = name.to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(StartError::Name(name));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok((names, addresses))
}

impl Authority {
    /// Makes a key and a certificate for this server, and writes the certificate down.
    pub(crate) async fn server_key(self: &Arc<Self>, now: Time) -> Result<(ServerKey, Time), StartError> {
        let (dns_names, addresses) = names(&self.config.names)?;
        let signing = |error: &dyn std::fmt::Display| StartError::ServerLeaf(error.to_string());
        let key = self.new_key().map_err(|error| signing(&error))?;
        let leaf = ServerLeaf {
            common_name: COMMON_NAME,
            dns_names,
            addresses,
            serial: Serial::from_random(random().map_err(|error| signing(&error))?),
            not_before: now.saturating_sub(BACKDATE),
            not_after: now.saturating_add(LIFE),
        };
        let public = key.public().clone();
        let sign = move |this: &Self| {
            let ca = this.issuer.certificate();
            issue::server_leaf(&public, &leaf, ca, this.config.signer.as_ref()).map_err(|error| issue_fault(&error))
        };
        let certificate = self.aside(sign).await.map_err(|error| signing(&error))?;
        let entry = Entry::Server(Issued::of(&certificate, format!("CN={COMMON_NAME}"), now, None));
        self.log.append(&[entry]).await.map_err(|fault| signing(&fault))?;
        let not_after = certificate.not_after();
        let key = ServerKey::new(&[certificate], &key).map_err(|error| signing(&error))?;
        Ok((key, not_after))
    }

    fn new_key(&self) -> Result<PrivateKey, pki::key::KeyError> {
        let mut seed = random().map_err(|NoRandom| pki::key::KeyError::Seed)?;
        let key = PrivateKey::generate_p256(&seed);
        seed.fill(0);
        key
    }
}

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub(crate) struct NoRandom;

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #[test]
    fn names_and_addresses_are_told_apart() {
        let given = ["127.0.33.1", "CA.example", "[::1]", "0.0.0.0", "localhost", "127.0.33.1"].map(str::to_owned);
        let (names, addresses) = super::names(&given).unwrap();
        assert_eq!(names, ["localhost", "ca.example"]);
        assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.33.1", "::1"]);
        for wrong in ["", "a..b", "a b", "*.example", "a/b"] {
            assert!(super::names(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }
}
