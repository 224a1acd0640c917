//! `CA`: the root for joiners, the unlock key for managers.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::proto::{
    GetRootCaCertificateRequest, GetRootCaCertificateResponse, GetUnlockKeyRequest, GetUnlockKeyResponse, Version,
};
use wire::status::Refusal;

use super::{Service, call};

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
        let version = Some(Version { index: self.0.handle.state().cluster_version });
        Ok(Response::new(GetUnlockKeyResponse { unlock_key: Vec::new(), version }))
    }
}
