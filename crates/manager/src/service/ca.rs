//! `CA`: the root for joiners, the unlock key for managers.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::proto::{
    GetRootCaCertificateRequest, GetRootCaCertificateResponse, GetUnlockKeyRequest, GetUnlockKeyResponse, Version,
};
use wire::status::Refusal;

use super::{Service, call};
use crate::shared::refusal;

#[tonic::async_trait]
impl<H: Handle> wire::server::Ca for Service<H> {
    async fn get_root_ca_certificate(
        &self,
        request: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::GetRootCaCertificate)?;
        let state = self.0.handle.state();
        let root = state.roots.served().ok_or(Refusal::SignerStarting)?;
        Ok(Response::new(GetRootCaCertificateResponse { certificate: root.bundle.clone().into() }))
    }

    async fn get_unlock_key(
        &self,
        request: Request<GetUnlockKeyRequest>,
    ) -> Result<Response<GetUnlockKeyResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::GetUnlockKey)?;
        // Not noted as the use of a leaf: a manager asks before it has installed what it was given.
        // Whoever seals its key under an old one could not be opened with the one that operators know.
        let state = self.0.handle.read().await.map_err(|error| {
            tracing::warn!(%error, "the unlock key could not be given out");
            Refusal::LeaderLost
        })?;
        // What this manager knew a moment ago may have been old: a manager of before gets no key of after.
        state.authorize(call.caller(), Method::GetUnlockKey, self.0.now()).map_err(|denial| refusal(denial, &state))?;
        let unlock_key = state.unlock.as_ref().map(|unlock| unlock.0.bytes().expose().to_vec()).unwrap_or_default();
        let version = Some(Version { index: state.cluster_version });
        Ok(Response::new(GetUnlockKeyResponse { unlock_key, version }))
    }
}
