//! What the manager's own part of an issuance costs, beside the limit that pki's bench shows: everything but the log and the
//! network. `cargo bench -p swarmpki-manager`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

extern crate swarmpki_manager as manager;

use std::sync::Arc;

use cluster::authorize::Caller;
use cluster::command::Batch;
use cluster::settings::Settings;
use cluster::{Command, State, tokens};
use divan::{Bencher, black_box};
use manager::bootstrap::{Bootstrap, Params};
use manager::issue::{self, Draw, Request, Signing};
use manager::{Availability, Chance};
use pki::time::Time;

const NOW: Time = Time::from_unix_secs(1_797_000_000);

fn main() {
    divan::main();
}

struct Rig {
    state: State,
    signing: Signing,
    request: Request,
    chance: Chance,
}

fn rig() -> Rig {
    let chance = Chance::system();
    let params =
        Params { addr: "127.0.0.1:2377".to_owned(), availability: Availability::Active, settings: Settings::default() };
    let made = Bootstrap::prepare(params, &chance, NOW).unwrap();
    let mut state = State::empty();
    state.apply(1, &Batch { time: NOW, commands: vec![made.command] });
    let root = state.roots.signing().unwrap();
    let signing = Signing::of(root, NOW).unwrap();
    let token = state.tokens.text(tokens::WORKER_ROW, &made.trust.digest(), false).unwrap();
    let csr = pki::csr::request(&chance.p256_key().unwrap()).unwrap();
    let request = Request {
        csr: csr.into_bytes(),
        token: Arc::from(token.text()),
        availability: Availability::Active,
        ours: true,
    };
    Rig { state, signing, request, chance }
}

impl Rig {
    fn command(&self) -> Command {
        let csr = issue::shape(&self.request).unwrap();
        let purpose = issue::admit(&self.state, Caller::Anonymous, &self.request, NOW).unwrap();
        let csr = csr.verify().unwrap();
        let draw = Draw { node: self.chance.node_id().unwrap(), serial: self.chance.serial().unwrap() };
        issue::sign(&self.state, &purpose, &self.request, &csr, &self.signing, draw, NOW).unwrap()
    }
}

/// Shape and admission: what a caller without a token costs.
#[divan::bench]
fn shape_and_admit(bencher: Bencher<'_, '_>) {
    let rig = rig();
    bencher.bench_local(|| {
        let csr = issue::shape(black_box(&rig.request)).unwrap();
        (csr, issue::admit(&rig.state, Caller::Anonymous, &rig.request, NOW).unwrap())
    });
}

/// From a request to the command that is proposed for it.
#[divan::bench]
fn request_to_command(bencher: Bencher<'_, '_>) {
    let rig = rig();
    bencher.bench_local(|| black_box(&rig).command());
}

/// The answer to a status call.
#[divan::bench]
fn letter_to_chain(bencher: Bencher<'_, '_>) {
    let rig = rig();
    let Command::Admit(admit) = rig.command() else { panic!("a join") };
    bencher.bench_local(|| issue::chain_pem(black_box(&admit.letter)));
}
