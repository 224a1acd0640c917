//! One thread, one session: takes the next request from the stream, does it, answers.
//!
//! All workers wait at the same stream, and a request wakes one of them: a slow token has as many requests at work as it has sessions.

use std::collections::HashMap;
use std::sync::Arc;

use cryptoki::session::{Session, SessionState};
use pki::key::{PublicKey, SignatureAlgorithm, Signer};
use pki::{PrivateKey, SpkiHash};

use super::module::{Module, fault, is_stale};
use super::object::{self, Found};
use super::signature::{self, Failure};
use super::{Streams, import};
use crate::key::KeySelector;
use crate::protocol::{Answer, Fault, Request};
use crate::records::Room;
use crate::token;

/// A thread's session and the keys it has found.
pub(super) struct Worker {
    module: Arc<Module>,
    session: Session,
    /// Handles belong to the session that found them.
    keys: HashMap<KeySelector, Found>,
}

impl Worker {
    pub(super) fn new(module: Arc<Module>, session: Session) -> Self {
        Worker { module, session, keys: HashMap::new() }
    }

    /// Answers requests until the stream ends or breaks.
    pub(super) fn serve(&mut self, streams: &Streams) {
        let mut room = Room::new();
        loop {
            let Ok(Some(Ok((number, request)))) = streams.input.receive(&mut room, Request::decode) else { return };
            let answer = self.answer(request).unwrap_or_else(Answer::Fault).encode(number);
            if streams.output.send(&answer).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Answer, Fault> {
        match request {
            Request::Sign { selector, public, algorithm, digest } => {
                self.sign(&selector, public, algorithm, &digest).map(Answer::Signature)
            }
            Request::Find { selector } => self.find(&selector),
            Request::Make { label, id, kind } => {
                let id = id.map_or_else(random_id, Ok)?;
                self.create(&label, id, |session, id| object::make(session, &label, id, kind))
            }
            Request::Import { label, id, pkcs8 } => {
                let key = PrivateKey::from_der(pkcs8.expose()).map_err(|error| Fault::KeyKind(error.to_string()))?;
                let id = id.unwrap_or_else(|| key.public().key_id().to_vec());
                self.create(&label, id, |session, id| import::import(session, &label, id, &key))
            }
            Request::Check => self.check().map(|()| Answer::Alive),
            Request::Hello { .. } | Request::Open { .. } => Err(Fault::Refused("open already".into())),
        }
    }

    fn sign(
        &mut self,
        selector: &KeySelector,
        wanted: SpkiHash,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let known = self.keys.contains_key(selector);
        match self.sign_once(selector, wanted, algorithm, digest) {
            // The object may have been written anew since it was found: look once more, then believe it.
            Err(Failure::Module(error)) if known && is_stale(&error) => {
                self.keys.remove(selector);
                match self.sign_once(selector, wanted, algorithm, digest) {
                    Ok(signature) => Ok(signature),
                    Err(Failure::Fault(Fault::NoKey)) => Err(Fault::Gone("the key is no longer in the token".into())),
                    Err(Failure::Fault(fault)) => Err(fault),
                    Err(Failure::Module(error)) => Err(Fault::Gone(super::module::describe(&error))),
                }
            }
            Ok(signature) => Ok(signature),
            Err(Failure::Module(error)) => Err(fault(&error)),
            Err(Failure::Fault(fault)) => Err(fault),
        }
    }

    fn sign_once(
        &mut self,
        selector: &KeySelector,
        wanted: SpkiHash,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        if !self.keys.contains_key(selector) {
            let found = object::find(&self.session, selector).map_err(Failure::Fault)?;
            if self.keys.len() >= KEYS_MAX {
                self.keys.clear();
            }
            self.keys.insert(selector.clone(), found);
        }
        let Some(key) = self.keys.get(selector) else {
            return Err(Failure::Fault(Fault::NoKey));
        };
        if key.public.hash() != wanted {
            self.keys.remove(selector);
            return Err(Failure::Fault(Fault::OtherKey));
        }
        signature::sign(&self.module, &self.session, key.private, &key.public, algorithm, digest)
    }

    fn find(&mut self, selector: &KeySelector) -> Result<Answer, Fault> {
        self.keys.remove(selector);
        let found = object::find(&self.session, selector)?;
        self.prove(selector, &found.public)?;
        Ok(Answer::Key { id: found.id, spki: found.public.spki_der().to_vec() })
    }

    /// Has the key sign once: the token only says which public half is its own.
    fn prove(&mut self, selector: &KeySelector, public: &PublicKey) -> Result<(), Fault> {
        let algorithm = SignatureAlgorithm::for_key(public.kind());
        let digest = aws_lc_rs::digest::digest(token::hash(algorithm), PROOF);
        let signature = self.sign(selector, public.hash(), algorithm, digest.as_ref())?;
        public
            .verify(algorithm, PROOF, &signature)
            .map_err(|_| Fault::KeyKind("its signatures do not verify with the public key beside it".into()))
    }

    /// Makes both halves with `make`, and takes them back unless the key is found and signs.
    fn create(
        &mut self,
        label: &str,
        id: Vec<u8>,
        make: impl FnOnce(&Session, &[u8]) -> Result<[cryptoki::object::ObjectHandle; 2], Fault>,
    ) -> Result<Answer, Fault> {
        let writing = self.module.pkcs11.open_rw_session(self.module.slot).map_err(|error| fault(&error))?;
        object::refuse_existing(&writing, label, &id)?;
        let objects = make(&writing, &id)?;
        let selector = KeySelector { label: Some(label.to_owned()), id: Some(id) };
        let found = self.find(&selector);
        if found.is_err() {
            for object in objects {
                // The reason to be told is why the key is unusable.
                let _ = writing.destroy_object(object);
            }
        }
        found
    }

    fn check(&mut self) -> Result<(), Fault> {
        let session = self.session.get_session_info().map_err(|error| fault(&error))?;
        if !matches!(session.session_state(), SessionState::RoUser | SessionState::RwUser) {
            return Err(Fault::Gone("logged out by the token".into()));
        }
        self.module.pkcs11.get_token_info(self.module.slot).map_err(|error| fault(&error))?;
        for (selector, known) in &self.keys {
            match object::find(&self.session, selector) {
                Ok(found) if found.public == known.public => {}
                Err(Fault::Gone(reason)) => return Err(Fault::Gone(reason)),
                Ok(_) | Err(_) => return Err(Fault::Gone("a key is no longer in the token".into())),
            }
        }
        Ok(())
    }
}

fn random_id() -> Result<Vec<u8>, Fault> {
    let mut id = vec![0; ID_BYTES];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| Fault::Refused("no random numbers".into()))?;
    Ok(id)
}

/// Keys whose handles a session remembers; a CA has one, or two while it is replaced.
const KEYS_MAX: usize = 64;
/// Bytes of an id that we draw.
const ID_BYTES: usize = 16;
/// What a key signs to show that it is what it says: nothing that any protocol signs.
const PROOF: &[u8] = b"swarmpki: does this private key belong to its public key?";
