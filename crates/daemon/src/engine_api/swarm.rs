//! `/swarm`: inspect, init, join, leave, update, unlock key, unlock (engine-api.md 6.3 to 6.9).

use http::StatusCode;
use manager::view::{Availability, Rotate};
use pki::secret::SecretString;

use super::body::Document;
use super::decode::Object;
use super::error::ApiError;
use super::json::JoinTokens;
use super::query::Query;
use super::spec::SpecRequest;
use super::version::ApiVersion;
use super::{Answer, convert, empty, json};
use crate::backend::{Backend, refusal};
use crate::caller::Right;
use crate::lifecycle::{InitRequest, JoinRequest};

/// Address pool subnets that can be asked for, in bits of mask. Source: engine-api.md 2.1.
const SUBNET_SIZE_MAX: u32 = 29;

/// What stands in the place of a join token for those who may only look. docker's command shows what it is given, also nothing at all: this is
/// seen, is one word in a shell, and is refused as a token.
const NOT_FOR_VIEWERS: &str = "SHOWN-TO-ADMINISTRATORS-ONLY";

/// `GET /swarm`. Who may only look is shown no join token.
pub(super) fn inspect(backend: &Backend, right: Right) -> Answer {
    let mut swarm = convert::swarm(&backend.control()?.cluster().map_err(refusal)?);
    if right < Right::Admin {
        swarm.cluster.hide_secrets();
        let hidden = || NOT_FOR_VIEWERS.to_owned();
        swarm.join_tokens = JoinTokens { worker: hidden(), manager: hidden() };
    }
    json(&swarm)
}

/// `POST /swarm/init`.
pub(super) async fn init(backend: &Backend, version: ApiVersion, body: Option<Document>) -> Answer {
    let object = Object::document(body.as_ref().map(Document::value), "types.InitRequest")?;
    let pools = object.strings("DefaultAddrPool")?;
    check_prefixes(&pools)?;
    let spec = SpecRequest::from_object(&object.object("Spec", "swarm.Spec")?)?;
    let request = InitRequest {
        listen: object.string("ListenAddr")?,
        advertise: object.string("AdvertiseAddr")?,
        data_path: object.string("DataPathAddr")?,
        data_path_port: if version >= ApiVersion::DATA_PATH_PORT { object.unsigned32("DataPathPort")? } else { 0 },
        force_new_cluster: object.boolean("ForceNewCluster")?,
        unlock_key: SecretString::from(object.string("UnlockKey")?),
        spec,
        autolock: object.boolean("AutoLockManagers")?,
        availability: object.string("Availability")?,
        pools: if version >= ApiVersion::ADDRESS_POOL { pools } else { Vec::new() },
        subnet_size: if version >= ApiVersion::ADDRESS_POOL { object.unsigned32("SubnetSize")? } else { 0 },
    };
    let node = backend.lifecycle().init(request).await?;
    json(&node.as_str())
}

/// `POST /swarm/join`.
pub(super) async fn join(backend: &Backend, body: Option<Document>) -> Answer {
    let object = Object::document(body.as_ref().map(Document::value), "types.JoinRequest")?;
    let request = JoinRequest {
        listen: object.string("ListenAddr")?,
        advertise: object.string("AdvertiseAddr")?,
        remotes: object.strings("RemoteAddrs")?,
        token: SecretString::from(object.string("JoinToken")?),
        availability: object.string("Availability")?,
    };
    backend.lifecycle().join(request).await?;
    Ok(empty(StatusCode::OK))
}

/// `POST /swarm/leave`.
pub(super) async fn leave(backend: &Backend, query: &Query) -> Answer {
    backend.lifecycle().leave(query.lenient_bool("force")).await?;
    Ok(empty(StatusCode::OK))
}

/// `POST /swarm/update`.
pub(super) async fn update(backend: &Backend, query: &Query, body: Option<Document>) -> Answer {
    let spec = SpecRequest::decode(body.as_ref().map(Document::value))?;
    let version = query.object_version("swarm")?;
    let rotate = Rotate {
        worker: query.strict_bool("rotateWorkerToken")?,
        manager: query.strict_bool("rotateManagerToken")?,
        unlock_key: query.strict_bool("rotateManagerUnlockKey")?,
    };
    if spec.pkcs11().is_some() {
        return Err(ApiError::bad_request(
            "PKCS11 is for a new cluster: rotate to a token with POST /swarmpki/v1/ca/rotate",
        ));
    }
    let control = backend.control()?;
    let wish = spec.wish();
    control.update_cluster(version, spec.into_replacement()?, rotate, wish).await.map_err(refusal)?;
    Ok(empty(StatusCode::OK))
}

/// `GET /swarm/unlockkey`: nothing while managers are not locked at rest.
pub(super) async fn unlock_key(backend: &Backend) -> Answer {
    let key = backend.control()?.unlock_key().await.map_err(refusal)?;
    let shown = key.as_ref().map(SecretString::expose).unwrap_or_default();
    let document = Document::new(serde_json::json!({ "UnlockKey": shown }));
    json(document.value())
}

/// `POST /swarm/unlock`.
pub(super) async fn unlock(backend: &Backend, body: Option<Document>) -> Answer {
    let key = Object::document(body.as_ref().map(Document::value), "types.UnlockRequest")?.string("UnlockKey")?;
    backend.lifecycle().unlock(SecretString::from(key)).await?;
    Ok(empty(StatusCode::OK))
}

/// Checks the pools as the engine's JSON reader does.
fn check_prefixes(pools: &[String]) -> Result<(), ApiError> {
    for pool in pools {
        let refused =
            |reason: &str| ApiError::bad_request(format!("invalid JSON: netip.ParsePrefix({pool:?}): {reason}"));
        let (address, bits) = pool.rsplit_once('/').ok_or_else(|| refused("no '/'"))?;
        let address: std::net::IpAddr = address.parse().map_err(|_| refused("unable to parse IP"))?;
        let bits: u8 = bits.parse().map_err(|_| refused("bad bits after slash"))?;
        if bits > if address.is_ipv4() { 32 } else { 128 } {
            return Err(refused("prefix length out of range"));
        }
    }
    Ok(())
}

/// Checks data path port, pools and subnet size as an init does; both are carried only.
pub(crate) fn check_data_path(port: u32, pools: &[String], subnet_size: u32) -> Result<(), ApiError> {
    if port != 0 && !(1024..=49151).contains(&port) {
        return Err(ApiError::internal(format!("Datapath port number is not in valid range (1024-49151) : {port}")));
    }
    if subnet_size > SUBNET_SIZE_MAX {
        return Err(ApiError::internal(format!("subnet size is out of range: {subnet_size}")));
    }
    for pool in pools {
        let bits: u32 = pool.rsplit_once('/').and_then(|(_, bits)| bits.parse().ok()).unwrap_or_default();
        if subnet_size != 0 && bits > subnet_size {
            return Err(ApiError::internal(format!(
                "invalid CIDR: {pool:?}. Subnet size is too small for pool: {subnet_size}"
            )));
        }
    }
    Ok(())
}

/// An availability as init and join read it: empty means active.
pub(crate) fn initial_availability(word: &str) -> Result<Availability, ApiError> {
    if word.is_empty() {
        return Ok(Availability::Active);
    }
    convert::availability_of_word(word).ok_or_else(|| ApiError::internal(format!("invalid Availability: {word:?}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pools_ports_and_words() {
        let text = |result: Result<(), ApiError>| result.err().map(|error| (error.status.as_u16(), error.message));
        let pool = |text: &str| vec![text.to_owned()];
        assert_eq!(text(check_prefixes(&pool("10.0.0.0/8"))), None);
        assert_eq!(
            text(check_prefixes(&pool("nonsense"))),
            Some((400, "invalid JSON: netip.ParsePrefix(\"nonsense\"): no '/'".into()))
        );
        assert!(text(check_prefixes(&pool("10.0.0.0/33"))).is_some());
        assert_eq!(text(check_data_path(0, &pool("10.0.0.0/8"), 24)), None);
        assert_eq!(text(check_data_path(4789, &[], 0)), None);
        assert_eq!(
            text(check_data_path(80, &[], 0)),
            Some((500, "Datapath port number is not in valid range (1024-49151) : 80".into()))
        );
        assert_eq!(
            text(check_data_path(0, &pool("10.0.0.0/8"), 30)),
            Some((500, "subnet size is out of range: 30".into()))
        );
        assert_eq!(
            text(check_data_path(0, &pool("10.0.0.0/28"), 24)),
            Some((500, "invalid CIDR: \"10.0.0.0/28\". Subnet size is too small for pool: 24".into()))
        );
        assert_eq!(initial_availability("").unwrap(), Availability::Active);
        assert_eq!(initial_availability("DRAIN").unwrap(), Availability::Drain);
        assert_eq!(initial_availability("lazy").unwrap_err().message, "invalid Availability: \"lazy\"");
    }
}
