//! What the demo plays, step by step, and how it is told.

use std::path::Path;
use std::time::{Duration, Instant};

use daemon::engine_api::extra::StatusReport;
use pki::digest::Digest;
use serde_json::{Value, json};

use super::machine::{Held, Stage, free_port, until};
use crate::api::{Info, JoinRequest, Node, Swarm};
use crate::client::{Client, escape};
use crate::failure::Failure;
use crate::output::Output;
use crate::shown;
use crate::verb::init::{self, InitArgs};
use crate::verb::node::ls;

/// Column where the time of a step ends.
const TIME_COLUMN: usize = 86;

/// The teller: numbered steps, each with what it showed and how long it took.
pub(super) struct Story<'a> {
    out: &'a mut Output,
    begun: Instant,
    step: Instant,
    steps: Vec<Value>,
}

impl<'a> Story<'a> {
    pub(super) fn new(out: &'a mut Output) -> Self {
        Self { out, begun: Instant::now(), step: Instant::now(), steps: Vec::new() }
    }

    fn title(&mut self, title: &str) -> Result<(), Failure> {
        if self.out.json() { Ok(()) } else { self.out.line(format!("{title}\n")) }
    }

    /// Begins to count a step's time.
    fn begin(&mut self) {
        self.step = Instant::now();
    }

    /// Tells a step that has just ended, with details a line each.
    fn tell(&mut self, what: &str, details: &[String]) -> Result<(), Failure> {
        let took = self.step.elapsed();
        self.steps.push(json!({"Step": what, "Millis": took.as_secs_f64() * 1000.0, "Details": details}));
        if self.out.json() {
            return Ok(());
        }
        let number = self.steps.len();
        let time = time(took);
        let (mark, dim, plain) =
            if self.out.terminal() { ("\u{1b}[32m✓\u{1b}[0m", "\u{1b}[2m", "\u{1b}[0m") } else { ("ok", "", "") };
        let lead = format!("{number:>2}. {what}");
        let gap = TIME_COLUMN.saturating_sub(lead.chars().count() + time.chars().count()).max(2);
        self.out.drawn(format!("{lead}{:gap$}{dim}{time}{plain}  {mark}\n", ""))?;
        for detail in details.iter().flat_map(|detail| detail.lines()) {
            let line = format!("      {dim}{}{plain}", shown::field(detail));
            self.out.drawn(format!("{}\n", line.trim_end()))?;
        }
        self.begin();
        Ok(())
    }

    /// The last line.
    pub(super) fn end(&mut self, kept: Option<&Path>) -> Result<(), Failure> {
        let kept_text = kept.map(|dir| dir.display().to_string());
        if self.out.json() {
            return self.out.document(&json!({
                "Steps": self.steps, "Millis": self.begun.elapsed().as_secs_f64() * 1000.0, "Kept": kept_text,
            }));
        }
        if let Some(dir) = kept_text {
            self.out.line(format!("\nStates and logs are kept in {dir}"))?;
        }
        self.out.line(format!(
            "\nAll as it should be, in {}. A cluster that stays: swarmpki up",
            time(self.begun.elapsed())
        ))
    }
}

/// Plays all of it.
pub(super) async fn play(stage: &mut Stage, story: &mut Story<'_>) -> Result<(), Failure> {
    story.title(&format!("A cluster on loopback, in {}", stage.dir().display()))?;
    story.begin();
    for name in ["manager", "node-1", "node-2", "stranger"] {
        stage.start(name).await?;
    }
    story.tell("four daemons start: manager, node-1, node-2, stranger", &[])?;

    let mut manager = stage.machine("manager")?.client().await?;
    let addr = format!("127.0.0.1:{}", free_port()?);
    initialize(&addr, &mut manager).await?;
    let swarm: Swarm = manager.get("/swarm").await?;
    story.tell("swarmpki init on manager: a root, and a token for joining", &root(stage, &swarm)?)?;

    for name in ["node-1", "node-2"] {
        join(stage, name, &swarm.join_tokens.worker, &addr).await?;
        let held = stage.machine(name)?.certificate()?;
        story.tell(&format!("swarmpki join on {name}: it checks the root, and gets a certificate"), &leaf(&held)?)?;
    }
    let nodes = all_ready(3, &mut manager).await?;
    let extras = ls::extras(&mut manager).await?;
    let table = ls::short_table(&nodes, extras.as_deref());
    story.tell("swarmpki node ls: all are in session over mutual TLS", &[table])?;

    renew(stage, story).await?;

    refused_token(stage, story, &swarm, &addr).await?;

    remove(stage, story, &mut manager, &nodes).await
}

async fn initialize(addr: &str, manager: &mut Client) -> Result<(), Failure> {
    let init = InitArgs { advertise_addr: Some(addr.to_owned()), listen_addr: addr.to_owned(), ..InitArgs::default() };
    init::request(&init, String::new(), manager).await.map(drop)
}

async fn join(stage: &Stage, name: &str, token: &str, addr: &str) -> Result<Info, Failure> {
    let mut client = stage.machine(name)?.client().await?;
    let request = JoinRequest {
        listen_addr: "127.0.0.1:0".to_owned(),
        advertise_addr: "127.0.0.1".to_owned(),
        data_path_addr: String::new(),
        remote_addrs: vec![addr.to_owned()],
        join_token: token.to_owned(),
        availability: "active".to_owned(),
    };
    client.post("/swarm/join", Some(&request)).await?;
    client.get("/info").await
}

/// Waits until so many nodes are ready; returns them.
async fn all_ready(count: usize, manager: &mut Client) -> Result<Vec<Node>, Failure> {
    until("all nodes to be ready", async || {
        let nodes: Vec<Node> = manager.get("/nodes").await?;
        let ready = nodes.iter().filter(|node| node.status.state == "ready").count();
        Ok((ready == count).then_some(nodes))
    })
    .await
    .map(|mut nodes| {
        nodes.sort_by(|a, b| a.description.hostname.cmp(&b.description.hostname));
        nodes
    })
}

/// A new certificate with a new key, asked for by the node over its present identity.
async fn renew(stage: &Stage, story: &mut Story<'_>) -> Result<(), Failure> {
    let node = stage.machine("node-1")?;
    let before = node.certificate()?;
    story.begin();
    node.client().await?.own_post("/renew").await?;
    let after = until("node-1's new certificate", async || {
        // Key and certificate are replaced one after the other: look again if they do not match yet.
        let held = node.certificate().ok();
        Ok(held.filter(|held| held.leaf.serial() != before.leaf.serial()))
    })
    .await?;
    if after.leaf.spki_der() == before.leaf.spki_der() {
        return Err(Failure::new("node-1's new certificate has the old key"));
    }
    if subject(&after)? != subject(&before)? {
        return Err(Failure::new("node-1's new certificate names another node"));
    }
    story.tell(
        "node-1 renews: new key, new certificate, same node",
        &[
            format!("serial   {} -> {}", before.leaf.serial(), after.leaf.serial()),
            format!("expires  {}", after.leaf.not_after().rfc3339()),
        ],
    )
}

async fn refused_token(stage: &Stage, story: &mut Story<'_>, swarm: &Swarm, addr: &str) -> Result<(), Failure> {
    story.begin();
    let guessed = wrong_secret(&swarm.join_tokens.worker);
    match join(stage, "stranger", &guessed, addr).await {
        Ok(_) => Err(Failure::new("a stranger got in with a wrong token")),
        Err(refusal) if refusal.text().contains("token") => {
            story.tell("stranger comes with a guessed token: refused", &[refusal.text().to_owned()])
        }
        Err(other) => Err(other),
    }
}

/// Removes a node that is in session, and sees it refused.
async fn remove(stage: &Stage, story: &mut Story<'_>, manager: &mut Client, nodes: &[Node]) -> Result<(), Failure> {
    let removed = nodes
        .iter()
        .find(|node| node.description.hostname == "node-2")
        .ok_or_else(|| Failure::new("the manager does not list node-2"))?;
    let mut client = stage.machine("node-2")?.client().await?;
    story.begin();
    manager.delete(&format!("/nodes/{}?force=1", escape(&removed.id))).await?;
    until("node-2 to be refused", async || {
        let own: Option<StatusReport> = client.own("/status").await?;
        Ok(own.filter(|own| own.phase.as_deref() == Some("removed")))
    })
    .await?;
    let rest: Vec<Node> = manager.get("/nodes").await?;
    if rest.iter().any(|node| node.id == removed.id) {
        return Err(Failure::new("the manager still lists node-2"));
    }
    let held = stage.machine("node-2")?.certificate()?;
    story.tell(
        "swarmpki node rm --force node-2: session cut, certificate refused",
        &[format!("although it would have been valid until {}", held.leaf.not_after().rfc3339())],
    )
}

fn root(stage: &Stage, swarm: &Swarm) -> Result<Vec<String>, Failure> {
    let held = stage.machine("manager")?.certificate()?;
    Ok(vec![
        format!("cluster  {}", swarm.id),
        format!("root     CN={}, {}", held.issuer, Digest::of(swarm.tls_info.trust_root.as_bytes())),
        format!("token    {}  (names the root's digest)", hidden(&swarm.join_tokens.worker)),
    ])
}

fn leaf(held: &Held) -> Result<Vec<String>, Failure> {
    Ok(vec![
        format!("subject  {}", subject(held)?),
        format!("issuer   CN={}", held.issuer),
        format!("expires  {}", held.leaf.not_after().rfc3339()),
    ])
}

fn subject(held: &Held) -> Result<String, Failure> {
    let subject = held.leaf.node_subject().map_err(|error| Failure::new(error.to_string()))?;
    Ok(format!("O={}, OU={}, CN={}", subject.cluster, subject.role.ou(), subject.node))
}

/// The token with its secret left out.
fn hidden(token: &str) -> String {
    let public = token.rsplit_once('-').map_or(token, |(public, _)| public);
    format!("{public}-…")
}

/// A well-formed token with another secret.
fn wrong_secret(token: &str) -> String {
    let mut guess = token.to_owned();
    let last = if guess.pop() == Some('0') { '1' } else { '0' };
    guess.push(last);
    guess
}

fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_another_token() {
        assert_eq!(wrong_secret("SWMTKN-1-a-b0"), "SWMTKN-1-a-b1");
        assert_eq!(wrong_secret("SWMTKN-1-a-bz"), "SWMTKN-1-a-b0");
        assert_eq!(hidden("SWMTKN-1-a-bz"), "SWMTKN-1-a-…");
    }
}
