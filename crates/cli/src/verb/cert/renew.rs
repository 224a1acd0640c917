//! `swarmpki cert renew`: another certificate in the place of the one that is there, with a new key.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use daemon::engine_api::operators::{IssuedReport, RenewRequest};

use super::directory::Directory;
use super::{key_and_request, told};
use crate::failure::Failure;
use crate::go_duration;
use crate::verb::Context;

/// Replace a certificate, and its key, by new ones with the same name and role
#[derive(Args, Clone, Debug)]
pub(crate) struct RenewArgs {
    /// Its directory; SWARMPKI_CERT_PATH, or DOCKER_CERT_PATH, unless set
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long the new one lasts (s|m|h|d): no longer than the old one did; as long unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    ttl: Option<Duration>,
}

impl RenewArgs {
    fn directory(&self) -> Result<Directory, Failure> {
        let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = self.dir.clone().or_else(|| from("SWARMPKI_CERT_PATH")).or_else(|| from("DOCKER_CERT_PATH"));
        dir.map(|dir| Directory::new(&dir)).ok_or_else(|| {
            Failure::new("which certificate? Name its directory with --dir")
                .hint("SWARMPKI_CERT_PATH and DOCKER_CERT_PATH name one too.")
        })
    }

    /// Brings an earlier renewal to its end, if it was interrupted.
    pub(crate) fn mend(&self) -> Result<(), Failure> {
        self.directory()?.mend()
    }
}

/// Asks for it and replaces what is there.
pub(crate) async fn run(args: &RenewArgs, context: &mut Context) -> Result<(), Failure> {
    let directory = args.directory()?;
    let before = directory.certificate()?;
    let (key, csr) = key_and_request()?;
    let ttl_s = args.ttl.map(|ttl| ttl.as_secs());
    let mut client = context.client().await?;
    let request = RenewRequest { serial: Some(before.serial().to_string()), ttl_s, csr };
    let issued: IssuedReport = client.own_call("/operators/renew", &request).await?;
    directory.replace(&issued.ca, &issued.certificate, &key)?;
    told(&issued, &directory.shown(), &format!("Renewed for {}", issued.operator.name), context)
}
