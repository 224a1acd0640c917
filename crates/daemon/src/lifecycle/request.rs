//! Init and join requests, and their checks: all that can be refused is refused before anything is done.

use std::net::SocketAddr;
use std::sync::Arc;

use cluster::roots::Root;
use manager::Keys;
use manager::rotate::Wish;
use manager::view::{Availability, ClusterSpec, ControlError};
use pki::join_token::JoinToken;
use pki::secret::SecretString;

use crate::address::{self, Addresses, Interface};
use crate::backend::refusal;
use crate::engine_api::error::ApiError;
use crate::engine_api::spec::SpecRequest;
use crate::engine_api::swarm::{check_data_path, initial_availability};

/// What `POST /swarm/init` asks for.
pub struct InitRequest {
    /// `ListenAddr`.
    pub listen: String,
    /// `AdvertiseAddr`; empty: detect.
    pub advertise: String,
    /// `DataPathAddr`; checked only.
    pub data_path: String,
    /// `DataPathPort`; 0: default.
    pub data_path_port: u32,
    /// `ForceNewCluster`.
    pub force_new_cluster: bool,
    /// `UnlockKey`, which is ours: opens a manager that is locked, before it makes its cluster anew; empty: none.
    pub unlock_key: SecretString,
    /// `Spec`.
    pub spec: SpecRequest,
    /// `AutoLockManagers`.
    pub autolock: bool,
    /// `Availability`; empty: active.
    pub availability: String,
    /// `DefaultAddrPool`; carried only.
    pub pools: Vec<String>,
    /// `SubnetSize`; 0: default.
    pub subnet_size: u32,
}

/// An init that passed every check.
pub(crate) struct InitPlan {
    pub(crate) addresses: Addresses,
    pub(crate) spec: ClusterSpec,
    pub(crate) availability: Availability,
    pub(crate) pools: Vec<String>,
    pub(crate) subnet_size: u32,
    pub(crate) data_path_port: u32,
    /// The root to begin with; none: a new one is made.
    pub(crate) root: Option<Arc<Root>>,
}

impl InitRequest {
    /// Checks everything, the settings too: an init that is refused leaves no swarm behind (docker's does).
    pub(crate) async fn check(self, interfaces: &[Interface], keys: &Keys) -> Result<InitPlan, ApiError> {
        address::parse_tcp("ListenAddr", &self.listen, "0.0.0.0")?;
        self.spec.check_name()?;
        let addresses = address::resolve(&self.listen, &self.advertise, &self.data_path, interfaces)?;
        check_data_path(self.data_path_port, &self.pools, self.subnet_size)?;
        let availability = initial_availability(&self.availability)?;
        let (wish, pkcs11) = (self.spec.wish(), self.spec.pkcs11().map(str::to_owned));
        // Said in two places: either will do.
        let autolock = self.autolock || self.spec.autolock();
        let spec = ClusterSpec { autolock, ..self.spec.merged_into(crate::engine_api::spec::defaults())? };
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let root = first_root(wish, &spec, pkcs11, keys).await.map_err(refusal)?;
        Ok(InitPlan {
            addresses,
            spec,
            availability,
            pools: self.pools,
            subnet_size: or(self.subnet_size, 24),
            data_path_port: or(self.data_path_port, 4789),
            root,
        })
    }
}

/// The root that a cluster is to begin with; none: one is made.
async fn first_root(
    wish: Wish,
    spec: &ClusterSpec,
    pkcs11: Option<String>,
    keys: &Keys,
) -> Result<Option<Arc<Root>>, ControlError> {
    let now = crate::clock::now();
    let keys = keys.clone();
    if let Some(uri) = pkcs11 {
        let first = tokio::task::spawn_blocking(move || manager::bootstrap::root_in_token(wish, &uri, &keys, now));
        return first
            .await
            .unwrap_or_else(|error| Err(ControlError { code: tonic::Code::Internal, message: error.to_string() }))
            .map(Some);
    }
    manager::bootstrap::first_root(wish, &spec.external_cas, now)
}

/// What `POST /swarm/join` asks for.
pub struct JoinRequest {
    /// `ListenAddr`.
    pub listen: String,
    /// `AdvertiseAddr`; one that does not resolve is ignored.
    pub advertise: String,
    /// `RemoteAddrs`; only the first is used.
    pub remotes: Vec<String>,
    /// `JoinToken`.
    pub token: SecretString,
    /// `Availability`; empty: active.
    pub availability: String,
}

/// A join that passed every check.
pub(crate) struct JoinPlan {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) remote: String,
    pub(crate) token: JoinToken,
    pub(crate) availability: Availability,
}

impl JoinRequest {
    /// Checks everything that needs no manager.
    pub(crate) fn check(self, interfaces: &[Interface]) -> Result<JoinPlan, ApiError> {
        address::parse_tcp("ListenAddr", &self.listen, "0.0.0.0")?;
        let Some(remote) = self.remotes.first() else {
            return Err(ApiError::bad_request("at least 1 RemoteAddr is required to join"));
        };
        let remote = address::parse_tcp("remoteAddr", remote, "127.0.0.1")?;
        let listen = address::resolve_listen(&self.listen, interfaces)?;
        let availability = initial_availability(&self.availability)?;
        let advertise = if self.advertise.is_empty() {
            address::local_towards(&remote).map(|local| SocketAddr::new(local, listen.port()))
        } else {
            address::resolve_advertise(&self.advertise, listen, interfaces).ok()
        };
        // An engine without a token asks the manager and is refused; we never join without the root's digest.
        if self.token.expose().is_empty() {
            return Err(ApiError::bad_request(
                "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
            ));
        }
        let token = self.token.expose().parse().map_err(|_| ApiError::internal("invalid join token"))?;
        Ok(JoinPlan { listen, advertise, remote, token, availability })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::engine_api::decode::Object;
    use serde_json::{Value, json};

    const TOKEN: &str = "SWMTKN-1-4eseirmqbydwkl2d3ysfv4221k4u9u5nb3z3xva2er4rnpnpma-dq6umgirxgqt581skg9vk91n7";

    fn init(spec: Value, edit: impl FnOnce(&mut InitRequest)) -> Result<InitPlan, (u16, String)> {
        let mut request = InitRequest {
            listen: "127.0.0.1:2377".into(),
            advertise: "127.0.0.1".into(),
            data_path: String::new(),
            data_path_port: 0,
            force_new_cluster: false,
            unlock_key: SecretString::new(String::new()),
            spec: SpecRequest::from_object(&Object::document(Some(&spec), "Spec").unwrap()).unwrap(),
            autolock: false,
            availability: String::new(),
            pools: Vec::new(),
            subnet_size: 0,
        };
        edit(&mut request);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(request.check(&[], &Keys::default())).map_err(|error| (error.status.as_u16(), error.message))
    }

    #[test]
    fn zero_values_of_an_init_mean_defaults() {
        let plan = init(json!({"CAConfig": {"NodeCertExpiry": 7_200_000_000_000_i64}}), |_| {})
            .map_err(|(_, text)| text)
            .unwrap();
        assert_eq!(plan.spec.node_cert_expiry.as_secs(), 7200);
        assert_eq!(plan.spec.heartbeat.as_secs(), 5);
        assert_eq!((plan.spec.task_history, plan.spec.raft.election_tick), (Some(5), 10));
        assert_eq!((plan.subnet_size, plan.data_path_port), (24, 4789));
    }

    #[test]
    fn an_init_is_refused_before_anything_is_done() {
        type Row = (Value, fn(&mut InitRequest), u16, &'static str);
        let rows: [Row; 7] = [
            (json!({}), |r| r.listen.clear(), 400, "invalid ListenAddr \"\": invalid empty address"),
            (json!({"Name": "foo"}), |_| {}, 400, "swarm spec must be named \"default\""),
            (
                json!({"CAConfig": {"NodeCertExpiry": 1_800_000_000_000_i64}}),
                |_| {},
                400,
                "rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s",
            ),
            (json!({}), |r| r.data_path_port = 80, 500, "Datapath port number is not in valid range (1024-49151) : 80"),
            (json!({}), |r| r.availability = "lazy".into(), 500, "invalid Availability: \"lazy\""),
            (
                json!({}),
                |r| r.advertise = "0.0.0.0".into(),
                400,
                "advertise address must be a non-zero IP address or network interface (with optional port number)",
            ),
            (
                json!({"CAConfig": {"ExternalCAs": [{"Protocol": "foo", "URL": "https://x"}]}}),
                |_| {},
                400,
                "invalid protocol: \"foo\"",
            ),
        ];
        for (spec, edit, status, text) in rows {
            let Err(refused) = init(spec, edit) else { panic!("accepted: {text}") };
            assert_eq!(refused, (status, text.to_owned()));
        }
    }

    #[test]
    fn joins() {
        let join = |listen: &str, remotes: &[&str], token: &str, advertise: &str| {
            JoinRequest {
                listen: listen.into(),
                advertise: advertise.into(),
                remotes: remotes.iter().map(|text| (*text).to_owned()).collect(),
                token: SecretString::from(token.to_owned()),
                availability: String::new(),
            }
            .check(&[])
            .map(|plan| (plan.remote, plan.advertise.map(|address| address.to_string())))
            .map_err(|error| (error.status.as_u16(), error.message))
        };
        let listen = "127.0.2.4:2377";
        assert_eq!(join("", &[], "", ""), Err((400, "invalid ListenAddr \"\": invalid empty address".into())));
        assert_eq!(join(listen, &[], "", ""), Err((400, "at least 1 RemoteAddr is required to join".into())));
        assert_eq!(join(listen, &[""], TOKEN, ""), Err((400, "invalid remoteAddr \"\": invalid empty address".into())));
        assert_eq!(join(listen, &["127.0.2.1"], "SWMTKN-1-x-y", ""), Err((500, "invalid join token".into())));
        assert_eq!(
            join(listen, &["127.0.2.1"], "", ""),
            Err((
                400,
                "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster".into()
            ))
        );
        assert_eq!(
            join(listen, &["127.0.2.1"], TOKEN, "127.0.2.4"),
            Ok(("127.0.2.1:2377".into(), Some("127.0.2.4:2377".into())))
        );
        assert_eq!(join(listen, &["127.0.2.1"], TOKEN, "nonsense"), Ok(("127.0.2.1:2377".into(), None)));
    }
}
