//! The stock `docker` command, each version of it that this machine has, against our daemon alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use swarmpki_conformance::{node_id, swarm};
use testkit::daemon::Daemon;
use testkit::docker::{Client, Output};
use testkit::loopback::Loopback;
use testkit::require_or_skip;

/// Runs `test` once for each client, each time with a daemon of its own.
fn each_client(test: impl Fn(&dyn Fn(&[&str]) -> Output, &Daemon, &Loopback)) {
    for client in Client::all() {
        eprintln!("{}", client.version());
        let (net, daemon) = (Loopback::claim(), Daemon::start("manager1"));
        test(&|args| client.run(&daemon.socket(), args), &daemon, &net);
    }
}

fn init(docker: &dyn Fn(&[&str]) -> Output, net: &Loopback) {
    let (host, listen) = (net.host(1).to_string(), net.swarm(1));
    docker(&["swarm", "init", "--advertise-addr", &host, "--listen-addr", &listen]).ok();
}

#[test]
fn before_a_swarm_every_command_says_so() {
    require_or_skip!("swarmpki", "docker");
    each_client(|docker, _, _| {
        docker(&["version"]).ok();
        assert_eq!(docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok(), "inactive");
        let text = "Error response from daemon: This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                    connect this node to swarm and try again.";
        let commands: [&[&str]; 4] =
            [&["swarm", "join-token", "worker"], &["swarm", "ca"], &["node", "ls"], &["node", "rm", "x"]];
        for command in commands {
            assert_eq!(docker(command).refused(), text, "{command:?}");
        }
        assert_eq!(
            docker(&["swarm", "leave"]).refused(),
            "Error response from daemon: This node is not part of a swarm"
        );
    });
}

#[test]
fn the_first_manager_from_init_to_leave() {
    require_or_skip!("swarmpki", "docker");
    each_client(|docker, daemon, net| {
        init(docker, net);
        let (id, swarm) = (node_id(daemon), swarm(daemon));
        let again = docker(&["swarm", "init", "--advertise-addr", &net.host(1).to_string()]).refused();
        assert!(again.starts_with("Error response from daemon: This node is already part of a swarm."), "{again}");

        let token = docker(&["swarm", "join-token", "-q", "worker"]).ok();
        assert_eq!(token, swarm["JoinTokens"]["Worker"]);
        let shown = docker(&["swarm", "join-token", "worker"]).ok();
        assert!(shown.ends_with(&format!("docker swarm join --token {token} {}", net.swarm(1))), "{shown}");
        let rotated = docker(&["swarm", "join-token", "--rotate", "-q", "worker"]).ok();
        assert_ne!(rotated, token);

        assert_eq!(docker(&["swarm", "ca"]).ok(), swarm["TLSInfo"]["TrustRoot"].as_str().unwrap().trim());
        let listed = docker(&[
            "node",
            "ls",
            "--format",
            "{{.ID}} {{.Self}} {{.Status}} {{.Availability}} {{.ManagerStatus}} {{.TLSStatus}}",
        ]);
        assert_eq!(listed.ok(), format!("{id} true Ready Active Leader Ready"));
        assert_eq!(docker(&["node", "inspect", "self", "--format", "{{.ID}}"]).ok(), id);
        let pretty = docker(&["node", "inspect", "self", "--pretty"]).ok();
        assert!(pretty.contains(" Leader:\t\tYes") && pretty.contains("TLS Info:"), "{pretty}");
        assert_eq!(docker(&["node", "ps"]).ok().lines().count(), 1, "a heading and no tasks");

        docker(&["swarm", "update", "--cert-expiry", "48h"]).ok();
        assert!(docker(&["info"]).ok().contains("Expiry Duration: 2 days"));
        let short = docker(&["swarm", "update", "--cert-expiry", "59m"]).refused();
        assert!(
            short.ends_with("rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s"),
            "{short}"
        );

        let last = docker(&["swarm", "leave"]).refused();
        assert!(
            last.contains(
                "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
            ),
            "{last}"
        );
        assert_eq!(docker(&["swarm", "leave", "--force"]).ok(), "Node left the swarm.");
        assert_eq!(docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok(), "inactive");
        init(docker, net);
        assert_ne!(node_id(daemon), id, "another swarm, another node");
    });
}

#[test]
fn c327_c330_node_updates_and_what_is_refused() {
    require_or_skip!("swarmpki", "docker");
    each_client(|docker, daemon, net| {
        init(docker, net);
        let id = node_id(daemon);
        assert_eq!(docker(&["node", "update", "--label-add", "rack=7", "--availability", "drain", &id]).ok(), id);
        let seen = docker(&["node", "inspect", "--format", "{{.Spec.Labels}} {{.Spec.Availability}}", &id]).ok();
        assert_eq!(seen, "map[rack:7] drain");
        assert_eq!(docker(&["node", "update", "--label-rm", "rack", "--availability", "active", &id]).ok(), id);
        let demote = docker(&["node", "demote", &id]).refused();
        assert!(
            demote.ends_with("code = FailedPrecondition desc = attempting to demote the last manager of the swarm"),
            "{demote}"
        );
        assert!(
            docker(&["node", "rm", "--force", &id])
                .refused()
                .contains("is a cluster manager and is a member of the raft cluster")
        );
        let unknown = docker(&["node", "inspect", "nonesuch"]);
        assert_eq!(unknown.code, 1);
        assert!(unknown.stderr.contains("nonesuch"), "{unknown:?}");
    });
}
