//! `swarmpki init`: makes this machine the first manager of a new cluster.

use clap::Args;
use daemon::UnlockSource;
use pki::secret::SecretString;
use serde_json::{Value, json};
use zeroize::Zeroize;

use super::Context;
use super::{join_token, unlock_key};
use crate::api::{Info, InitRequest, Node, Swarm};
use crate::client::{Client, escape};
use crate::failure::Failure;
use crate::go_bool;
use crate::root_files::RootFiles;
use crate::spec::{self, SpecFlags};

/// Where managers listen for nodes unless told otherwise. Source: engine-api.md 10.
pub(crate) const LISTEN_ADDR: &str = "0.0.0.0:2377";
/// Mask length of the subnets in the default address pool. Source: engine-api.md 10.
const SUBNET_MASK: u32 = 24;

/// Initialize a swarm: make this machine its first manager
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["autolock", "force_new_cluster"])))]
pub(crate) struct InitArgs {
    /// Address that other nodes reach this one at, <ip|interface>[:port]; found out if the machine has only one
    #[arg(long, value_name = "STRING")]
    pub(crate) advertise_addr: Option<String>,
    /// Address to listen on for nodes, <ip|interface>[:port]
    #[arg(long, value_name = "NODE-ADDR", default_value = LISTEN_ADDR)]
    pub(crate) listen_addr: String,
    /// Availability of the node: active, pause or drain
    #[arg(long, value_name = "STRING")]
    pub(crate) availability: Option<String>,
    /// Lock managers: an unlock key is needed to start a stopped manager
    #[arg(long)]
    pub(crate) autolock: bool,
    /// Start a new cluster from this manager's present state
    #[arg(long)]
    pub(crate) force_new_cluster: bool,
    /// With --force-new-cluster on a locked manager: where the unlock key is, file:PATH, fd:NUMBER or command:COMMAND
    #[arg(long, value_name = "SOURCE")]
    pub(crate) unlock_from: Option<UnlockSource>,
    /// Address or interface for data path traffic; kept for docker's sake
    #[arg(long, value_name = "STRING", hide = true, default_value = "")]
    pub(crate) data_path_addr: String,
    /// Port for data path traffic; kept for docker's sake
    #[arg(long, value_name = "UINT32", hide = true, default_value_t = 0)]
    pub(crate) data_path_port: u32,
    /// Default address pool, CIDR; kept for docker's sake
    #[arg(long, value_name = "CIDR", hide = true, value_delimiter = ',')]
    pub(crate) default_addr_pool: Vec<String>,
    /// Subnet mask length of the default address pool; kept for docker's sake
    #[arg(long, value_name = "UINT32", hide = true, default_value_t = SUBNET_MASK)]
    pub(crate) default_addr_pool_mask_length: u32,
    #[command(flatten)]
    pub(crate) root: RootFiles,
    #[command(flatten)]
    pub(crate) spec: SpecFlags,
}

impl Default for InitArgs {
    /// As without any flag.
    fn default() -> Self {
        Self {
            advertise_addr: None,
            listen_addr: LISTEN_ADDR.to_owned(),
            availability: None,
            autolock: false,
            force_new_cluster: false,
            unlock_from: None,
            data_path_addr: String::new(),
            data_path_port: 0,
            default_addr_pool: Vec::new(),
            default_addr_pool_mask_length: SUBNET_MASK,
            root: RootFiles::default(),
            spec: SpecFlags::default(),
        }
    }
}

/// Initializes and prints how others join.
pub(crate) async fn run(args: &InitArgs, context: &mut Context) -> Result<(), Failure> {
    let availability = spec::check_availability(args.availability.as_deref())?;
    check_root(&args.root, args.spec.has_external_ca())?;
    if args.unlock_from.is_some() && !args.force_new_cluster {
        return Err(Failure::new("the --unlock-from flag requires the --force-new-cluster flag"));
    }
    let mut client = context.client().await?;
    let node = request(args, availability, &mut client).await?;
    report(&node, &mut client, context).await
}

/// Asks the daemon to initialize; returns the new node's id.
pub(crate) async fn request(args: &InitArgs, availability: String, client: &mut Client) -> Result<String, Failure> {
    let mut spec = spec::empty();
    // An external CA signs for the root that is given.
    args.spec.put_into(&mut spec, args.root.ca_cert.as_deref().unwrap_or_default());
    if args.autolock {
        spec::put(&mut spec, "EncryptionConfig", "AutoLockManagers", json!(true));
    }
    if let Some(uri) = &args.root.pkcs11 {
        if client.own::<Value>("/status").await?.is_none() {
            return Err(Failure::new("--pkcs11 needs a daemon of swarmpki: this one is a Docker Engine"));
        }
        spec::put(&mut spec, "CAConfig", "PKCS11", json!(uri));
    }
    if let Some(cert) = &args.root.ca_cert {
        // An engine would begin with a root of its own and rotate to this one, or not know the signer at all.
        if client.own::<Value>("/status").await?.is_none() {
            return Err(Failure::new("--ca-cert needs a daemon of swarmpki: this one is a Docker Engine"));
        }
        spec::put(&mut spec, "CAConfig", "SigningCACert", json!(cert));
        let key = args.root.key()?.map(|mut key| std::mem::take(&mut *key)).unwrap_or_default();
        spec::put(&mut spec, "CAConfig", "SigningCAKey", Value::String(key));
        if let Some(signer) = &args.root.signer_cert {
            spec::put(&mut spec, "CAConfig", "SignerCertificate", json!(signer));
        }
    }
    let key = unlock_key_for(args, client).await?;
    let mut request = InitRequest {
        listen_addr: args.listen_addr.clone(),
        advertise_addr: args.advertise_addr.clone().unwrap_or_default(),
        data_path_addr: args.data_path_addr.clone(),
        data_path_port: args.data_path_port,
        force_new_cluster: args.force_new_cluster,
        unlock_key: key.as_ref().map(SecretString::expose).unwrap_or_default(),
        spec,
        auto_lock_managers: args.autolock,
        availability,
        default_addr_pool: args.default_addr_pool.clone(),
        subnet_size: args.default_addr_pool_mask_length,
    };
    let answer = client.post("/swarm/init", Some(&request)).await;
    if let Some(Value::String(key)) = request.spec.pointer_mut("/CAConfig/SigningCAKey") {
        key.zeroize();
    }
    let answer = answer.map_err(|failure| {
        let text = failure.text();
        let which = text.contains("could not choose an IP address to advertise")
            || text.contains("could not find the system's IP address");
        if which {
            Failure::new(format!("{text} - specify one with --advertise-addr"))
        } else if args.force_new_cluster && text.contains("needs to be unlocked before it can be used") {
            failure.hint("Hint: give the unlock key with --unlock-from file:PATH, fd:NUMBER or command:COMMAND; or 'swarmpki unlock' first")
        } else {
            failure
        }
    })?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

/// The unlock key, if the manager is locked and we are told where the key is: only then is it read.
async fn unlock_key_for(args: &InitArgs, client: &mut Client) -> Result<Option<SecretString>, Failure> {
    let Some(source) = &args.unlock_from else { return Ok(None) };
    let info: Info = client.get("/info").await?;
    if info.swarm.local_node_state != "locked" {
        return Ok(None);
    }
    if client.own::<Value>("/status").await?.is_none() {
        return Err(Failure::new("--unlock-from needs a daemon of swarmpki: this one is a Docker Engine")
            .hint("'swarmpki unlock' first"));
    }
    source.read().await.map(Some).map_err(|error| Failure::new(error.to_string()))
}

/// The refusals that need no daemon.
fn check_root(root: &RootFiles, external: bool) -> Result<(), Failure> {
    match (root.ca_cert.is_some(), root.ca_key.is_some()) {
        (true, false) if root.pkcs11.is_none() && !external => {
            Err(Failure::new("the --ca-cert flag requires the --ca-key, --pkcs11 or --external-ca flag"))
        }
        (false, true) => Err(Failure::new("the --ca-key flag requires the --ca-cert flag")),
        _ => root.check(),
    }
}

pub(crate) async fn report(node: &str, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let this: Node = client.get(&format!("/nodes/{}", escape(node))).await?;
    let swarm: Swarm = client.get("/swarm").await?;
    let addr = this.manager_status.map(|status| status.addr).unwrap_or_default();
    let locked = Value::Bool(true) == swarm.spec["EncryptionConfig"]["AutoLockManagers"];
    let key = if locked { Some(unlock_key::get(client).await?) } else { None };
    if context.out.json() {
        let mut shown = json!({
            "NodeID": node, "ClusterID": swarm.id, "Addr": addr,
            "JoinTokens": {"Worker": swarm.join_tokens.worker, "Manager": swarm.join_tokens.manager},
        });
        if let Some(key) = &key {
            shown["UnlockKey"] = json!(key.unlock_key);
        }
        return context.out.document(&shown);
    }
    context.out.line(format!("Swarm initialized: current node ({node}) is now a manager.\n"))?;
    context.out.text(join_token::how_to_join("worker", &swarm.join_tokens.worker, &addr))?;
    if let Some(key) = key {
        context.out.text(unlock_key::how_to_unlock(&key.unlock_key))?;
    }
    Ok(())
}
