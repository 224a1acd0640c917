//! `swarmpki ca serve refuse`: shuts a node or a certificate out of the running server.

use authority::shut_out::{ShutOut, parse_serial};
use clap::Args;
use pki::identity::NodeId;
use pki::serial::Serial;
use serde_json::json;

use super::StateArgs;
use crate::failure::Failure;
use crate::output::Output;

/// Shut a manager out that was stolen: the server answers neither it nor for it any more, from the next request on
#[derive(Args, Clone, Debug)]
#[group(id = "who", required = true, multiple = false, args = ["node", "serial"])]
pub(crate) struct RefuseArgs {
    /// The node's id: whatever certificate it shows, and none is issued to it
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
    /// A certificate's serial number, hex, as swarmpki ca serve log prints it
    #[arg(long, value_name = "HEX", value_parser = serial)]
    serial: Option<Serial>,
    #[command(flatten)]
    state: StateArgs,
}

fn serial(text: &str) -> Result<Serial, &'static str> {
    parse_serial(text).ok_or("a serial number in hexadecimal digits is wanted")
}

/// Adds to the list in the server's state directory.
pub(super) fn run(args: &RefuseArgs, out: &mut Output) -> Result<(), Failure> {
    let dir = args.state.of_a_server()?;
    let (who, what) = match (&args.node, args.serial) {
        (Some(node), _) => (ShutOut::Node(node.clone()), format!("node {node}")),
        (None, Some(serial)) => (ShutOut::Serial(serial), format!("certificate {serial}")),
        // clap has made sure of one of them.
        (None, None) => return Ok(()),
    };
    who.add(&dir).map_err(|error| Failure::new(format!("cannot shut out in {}: {error}", dir.display())))?;
    if out.json() {
        return out.document(&json!({"node": args.node.as_ref().map(NodeId::as_str), "serial": args.serial.map(|serial| serial.to_string())}));
    }
    out.line(format!("The server refuses {what} from now on."))
}
